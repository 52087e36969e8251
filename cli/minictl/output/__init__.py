"""What commands print: tables as Docker's tab writer sets them, Go templates, JSON."""
