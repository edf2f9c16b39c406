"""The report as one HTML page, with plots drawn by plotly in the browser."""
