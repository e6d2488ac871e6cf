"""What a study, a check or a family looks like: figures, one-file HTML reports, terminal plots."""
