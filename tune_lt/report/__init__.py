"""From recorded runs to tables and figures, by MLflow's tags alone."""
