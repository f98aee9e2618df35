"""Tasks, graders, paired comparison and its report."""
