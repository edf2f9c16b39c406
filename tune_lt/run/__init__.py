"""Running a study on Ray: Optuna proposes, ASHA stops, Tune executes, MLflow records."""

import os

for _name, _value in {  # Ray reads these when it is imported; what the user has set stays
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Tune's own result files repeat what the store has
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the runner's stops at once, where Tune waits for its trials
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}.items():
    os.environ.setdefault(_name, _value)
