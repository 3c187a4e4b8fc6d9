"""What lies on disk: run folders, parts, notes of progress, whole files or none."""
