"""What tests ask of synthetic data."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder


def field_names(data):
    return [name for name in data.schema.feature_names if name.startswith("field_")]


def cells(data, groups):
    """One id per combination of the fields of each group: (n, len(groups))."""
    columns = []
    for group in groups:
        column = np.zeros(data.num_rows, np.int64)
        for name in group:
            column = column * 1009 + data.features[name]
        columns.append(column)
    return np.stack(columns, axis=1)


def auc_of_truth(data):
    """AUC that the true probabilities reach on the labels drawn: paired with a model's AUC, it leaves out what the draw did to both."""
    return roc_auc_score(data.labels["click"][:, 0], data.probability["click"])


def auc_of_logistic_regression(data, groups, label="click"):
    """Test AUC of a logistic regression on the one-hot combinations of the fields of each group, trained on the older three quarters."""
    train, test = data.split((0.75, 0.25))
    encoder = OneHotEncoder(handle_unknown="ignore").fit(cells(train, groups))
    model = LogisticRegression(C=1.0, max_iter=200).fit(encoder.transform(cells(train, groups)), train.labels[label][:, 0])
    return roc_auc_score(test.labels[label][:, 0], model.decision_function(encoder.transform(cells(test, groups)))), test


def auc_of_oracle(data, effect):
    """Test AUC of a logistic regression whose one feature is the planted contribution of an effect, and that of the true probabilities."""
    train, test = data.split((0.75, 0.25))
    model = LogisticRegression().fit(train.contributions["click"][effect][:, None], train.labels["click"][:, 0])
    score = model.decision_function(test.contributions["click"][effect][:, None])
    return roc_auc_score(test.labels["click"][:, 0], score), auc_of_truth(test)


def changed(data, **features):
    return {**data.features, **features}


def over_all_values(data, effect, name, row):
    """Contributions of an effect to one row, for every value that one feature can take."""
    size = data.schema.table_of(name).vocabulary_size
    rows = {key: np.repeat(value[row : row + 1], size - 2, axis=0) for key, value in data.features.items()}
    rows[name] = np.arange(2, size, dtype=np.int32)
    return data.planted.contributions(rows)["click"][effect]


def shuffled_history(data, rng):
    """Histories whose events are permuted and whose padding stays after the end."""
    history = data.features["history"]
    keys = np.where(history == 0, 2.0, rng.random(history.shape))
    return np.take_along_axis(history, np.argsort(keys, axis=1), axis=1)
