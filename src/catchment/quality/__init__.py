"""Rules about data: read from quality.yaml, judged row by row while merging, and over whole tables by the suite."""
