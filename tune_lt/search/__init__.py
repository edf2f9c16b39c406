"""Running a study on Ray: Optuna proposes, ASHA stops, Tune executes, MLflow records."""
