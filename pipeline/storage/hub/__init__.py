"""The Hugging Face Hub: models to read, by file or by range, and finished work to push."""
