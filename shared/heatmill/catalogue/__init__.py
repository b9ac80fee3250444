"""What can be asked for: methods and models, known without torch."""
