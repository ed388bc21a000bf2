"""What is done with a trained model: answers over files, tables and data sets."""
