"""What a TensorFlow Serving container needs beside the model's versions: model config, batching parameters, docker compose file."""

import os
from pathlib import Path

MODEL_CONFIG, BATCHING, COMPOSE = "models.config", "batching.config", "compose.yaml"

_MODEL_CONFIG = """\
# TensorFlow Serving: --model_config_file. The newest version is served; a new one is loaded, warmed up, and then takes its place.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

_BATCHING = """\
# TensorFlow Serving: --enable_batching --batching_parameters_file. Requests of all clients are joined along the first axis. So
# - signature 'rank' does not work with it: the server refuses inputs with different numbers of rows;
# - 'serving_default' needs sequences of one length in all requests: pad every one to the schema's max_length. The server's own padding
#   stays off: it repeats the first value, which would be read as events;
# - 'serve_examples' just works.
max_batch_size { value: 512 }
batch_timeout_micros { value: 1000 }
num_batch_threads { value: 4 }  # as many as the container has cores
max_enqueued_batches { value: 64 }
pad_variable_length_inputs: false
"""

_COMPOSE = """\
# docker compose up, in this folder. gRPC on 8500, REST on 8501: http://localhost:8501/v1/models/{name}:predict
services:
  serving:
    image: ${{TF_SERVING_IMAGE:-tensorflow/serving:latest}}
    ports: ["8500:8500", "8501:8501"]
    volumes: [".:/models/{name}:ro"]
    environment:
      MODEL_NAME: {name}
    command:
      - --model_config_file=/models/{name}/models.config
      # Joins small requests; see batching.config for what it excludes.
      # - --enable_batching=true
      # - --batching_parameters_file=/models/{name}/batching.config
    restart: unless-stopped
"""


def write_server_files(folder, name):
    """Writes the files that are not there yet into a model's folder, beside its versions; a server ignores names that are no numbers.

    Args:
        folder: The folder that holds the versions.
        name: Name under which the model is served.

    Returns:
        The names of the files written; those that exist are somebody's and stay.
    """
    contents = {MODEL_CONFIG: _MODEL_CONFIG.format(name=name), BATCHING: _BATCHING, COMPOSE: _COMPOSE.format(name=name)}
    written = []
    for file, text in contents.items():
        path = Path(folder) / file
        if path.exists():
            continue
        temporary = path.with_name(f".{file}.incomplete-{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        written.append(file)
    return written
