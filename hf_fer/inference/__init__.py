"""Use of trained models: prediction over files, tables and data sets, serving, and uploads to the Hub."""
