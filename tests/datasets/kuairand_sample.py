"""A made-up KuaiRand-Pure release of a few users, and histories by a loop over the raw rows."""

import csv
from datetime import datetime, timedelta, timezone

import numpy as np

CHINA = timezone(timedelta(hours=8))
LOG_COLUMNS = (
    "user_id video_id date hourmin time_ms is_click is_like is_follow is_comment is_forward is_hate long_view play_time_ms duration_ms "
    "profile_stay_time comment_stay_time is_profile_enter is_rand tab"
).split()
USER_COLUMNS = (
    "user_id user_active_degree is_lowactive_period is_live_streamer is_video_author follow_user_num follow_user_num_range fans_user_num "
    "fans_user_num_range friend_user_num friend_user_num_range register_days register_days_range"
).split() + [f"onehot_feat{i}" for i in range(18)]
VIDEO_COLUMNS = (
    "video_id author_id video_type upload_dt upload_type visible_status video_duration server_width server_height music_id music_type tag"
).split()


def _write(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        writer.writerows(rows)


def _impression(random, user, videos, day, is_rand):
    # Few distinct hours, so that a user has many impressions of the same instant.
    moment = datetime(2022, 4, 8, int(random.integers(0, 5)), 30, 0, 500_000, tzinfo=CHINA) + timedelta(days=day)
    click, long_view, like = (int(x) for x in random.random(3) < (0.5, 0.4, 0.2))
    return {
        "user_id": user,
        "video_id": int(random.integers(videos)),
        "date": moment.strftime("%Y%m%d"),
        "hourmin": moment.strftime("%H00"),
        "time_ms": int(moment.timestamp() * 1000),
        "is_click": click or long_view,
        "long_view": long_view,
        "is_like": like,
        "is_hate": 1 - like,
        "play_time_ms": 7919 * click,
        "is_rand": is_rand,
        "tab": int(random.integers(3)),
    }


def write_release(folder, users=5, videos=13, impressions=67, seed=3, with_random=True):
    """Writes the release's files for users 0, 1, ...; returns all rows of the logs as dicts, standard ones first."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    standard = [_impression(random, user, videos, int(random.integers(31)), 0) for user in range(users) for _ in range(impressions)]
    exposed = [_impression(random, user, videos, int(random.integers(14, 31)), 1) for user in range(users) for _ in range(11)]
    early = [row for row in standard if row["date"] < "20220422"]
    late = [row for row in standard if row["date"] >= "20220422"]
    _write(folder / "log_standard_4_08_to_4_21_pure.csv", LOG_COLUMNS, early)
    _write(folder / "log_standard_4_22_to_5_08_pure.csv", LOG_COLUMNS, late)
    if with_random:
        _write(folder / "log_random_4_22_to_5_08_pure.csv", LOG_COLUMNS, exposed)
    user_rows = [
        {name: f"{name}-{user}" if "range" in name or "degree" in name else 100 + user for name in USER_COLUMNS} | {"user_id": user}
        for user in range(users)
    ]
    user_rows[1]["onehot_feat4"] = ""  # missing, as in the release
    user_rows[2]["onehot_feat12"] = "1.0"
    _write(folder / "user_features_pure.csv", USER_COLUMNS, user_rows)
    tags = ("39,68", "3", "", "12,1,5")
    video_rows = [
        {
            "video_id": video,
            "author_id": 8_000_000 + video // 2,
            "video_type": "NORMAL",
            "upload_dt": f"2022-04-{9 + video % 3:02d}",
            "upload_type": "Web",
            "video_duration": "" if video == 5 else 7000.0 + 1000 * video,
            "music_type": "" if video == 7 else 9.0,
            "tag": tags[video % len(tags)],
        }
        for video in range(videos)
    ]
    _write(folder / "video_features_basic_pure.csv", VIDEO_COLUMNS, video_rows)
    return early + late, exposed, {row["video_id"]: row for row in video_rows}


def action_of(row):
    """The code of what the user did."""
    if row["is_like"]:
        return 4
    if row["long_view"]:
        return 3
    return 2 if row["is_click"] else 1


def earlier(row, log, keep=lambda event: True):
    """The user's events strictly before a row, oldest first, events of one instant in the order of the log."""
    events = [event for event in log if event["user_id"] == row["user_id"] and event["time_ms"] < row["time_ms"] and keep(event)]
    return sorted(events, key=lambda event: event["time_ms"])


def age_of(event, row):
    """0 below a second, else 1 + floor(log2(seconds)), by counting."""
    seconds, age = (row["time_ms"] - event["time_ms"]) // 1000, 0
    while seconds >= 1:
        seconds, age = seconds / 2, age + 1
    return age
