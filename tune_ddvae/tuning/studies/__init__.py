"""What `studies` does: lists, stops and resumes them."""
