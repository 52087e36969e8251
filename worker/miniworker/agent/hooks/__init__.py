"""What a task needs around its container, one hook each; secrets, volumes and health have their place here."""
