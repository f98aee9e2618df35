"""What all reports share: the page shell, drawing, labels and how numbers are written."""
