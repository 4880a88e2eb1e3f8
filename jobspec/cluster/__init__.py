"""Workers as Slurm array elements: the site's settings, scripts, submission, scale."""
