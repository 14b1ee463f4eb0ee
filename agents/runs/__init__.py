"""Run folders: files, logs, plots and costs."""
