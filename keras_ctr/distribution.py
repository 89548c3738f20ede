"""Training on the GPUs of one machine, with row-sparse optimizers.

>>> strategy = keras_ctr.distribution.mirrored()
>>> with strategy.scope():
...     model = keras_ctr.models.DCNv2(schema)
...     model.compile(keras_ctr.optimizers.default(1e-3), "binary_crossentropy")
>>> model.fit(keras_ctr.distribution.equal_batches(dataset, strategy))

Every replica holds a copy of the variables and trains on its part of each batch. The gradients of a table stay `tf.IndexedSlices`:
replicas exchange the rows of their parts, never a tensor of the table's size, and the rows of all replicas are summed before a rule
squares them, so a step equals that of one device on the whole batch.
"""

import tensorflow as tf

__all__ = ["equal_batches", "logical_cpus", "mirrored"]


def mirrored(devices=None, *, cross_device_ops=None):
    """Returns a `tf.distribute.MirroredStrategy` with collectives that are safe for sparse gradients.

    TensorFlow's default runs the reductions of dense and of sparse gradients as different collectives, which every replica must launch in
    one order; with several optimizers (`keras.optimizers.MultiOptimizer`) an InternalError over that order has been seen, rarely. The
    default here reduces in the graph: copies summed in a tree between GPUs, on one device between CPUs.

    Args:
        devices: Names such as `["GPU:0", "GPU:1"]`, or their number; None = all GPUs, or all logical CPUs if there is no GPU.
        cross_device_ops: A `tf.distribute.CrossDeviceOps` to use instead.

    Returns:
        The strategy. Build and compile the model in its `scope()`.

    Raises:
        ValueError: If there are fewer devices than asked for, or none is named.
    """
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    found = gpus or [device.name for device in tf.config.list_logical_devices("CPU")]
    if devices is None:
        devices = found
    elif isinstance(devices, int):
        if not 1 <= devices <= len(found):
            raise ValueError(f"mirrored: {devices} devices asked for, found {len(found)}: {', '.join(found)}")
        devices = found[:devices]
    elif not devices:
        raise ValueError("mirrored: the list of devices is empty; None takes all")
    if cross_device_ops is None:
        cross_device_ops = tf.distribute.HierarchicalCopyAllReduce() if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=cross_device_ops)


def logical_cpus(number):
    """Splits the processor into logical devices, to try a strategy where there is no GPU. Call it before TensorFlow does any work.

    Args:
        number: Devices to make.

    Returns:
        Their names.

    Raises:
        ValueError: If `number` is not positive.
        RuntimeError: If TensorFlow has started and has another number of them.
    """
    if number < 1:
        raise ValueError(f"logical_cpus: number must be positive, got {number}")
    cpu = tf.config.list_physical_devices("CPU")[0]
    current = len(tf.config.get_logical_device_configuration(cpu) or [None])
    if current != number:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
        except RuntimeError as error:
            advice = "call it before anything else that uses TensorFlow in this process"
            raise RuntimeError(f"logical_cpus: {number} devices asked for, TensorFlow has started with {current}; {advice}") from error
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def equal_batches(dataset, strategy):
    """Returns a dataset whose batches divide equally among the replicas of a strategy.

    Keras scales the loss of each replica by the number of replicas, so a batch that does not divide would weigh its rows unequally, and a
    last batch with fewer rows than replicas would leave one without any. Batches keep their order; each is cut to a multiple of the
    number of replicas and left out if nothing remains. Choose a batch size that divides: then this concerns the last batch of a pass
    only (at most `replicas - 1` rows, other ones in every pass if the data are shuffled); otherwise every batch loses rows. The number of
    batches is not known beforehand, so Keras warns at the end of the first pass that the data ran out.

    Args:
        dataset: `tf.data.Dataset` of batches, structures of tensors `(B, ...)`.
        strategy: The strategy; with one replica the dataset is returned as it is.

    Raises:
        ValueError: If all batches have a known size that does not divide: rows of every batch would be lost.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return dataset
    first = tf.nest.flatten(dataset.element_spec)[0].shape[0]
    if first is not None and first % replicas:
        raise ValueError(f"batches of {first} rows do not divide among {replicas} replicas; choose a multiple as the batch size")
    if first is not None:
        return dataset

    def rows(*batch):
        return tf.shape(tf.nest.flatten(batch)[0])[0]

    def cut(*batch):
        keep = rows(*batch) // replicas * replicas
        batch = tf.nest.map_structure(lambda tensor: tensor[:keep], batch)
        return batch if len(batch) > 1 else batch[0]

    return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).filter(lambda *batch: rows(*batch) > 0)
