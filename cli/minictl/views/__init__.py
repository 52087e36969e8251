"""From the API's messages to what is shown: fields of list rows, and Docker's JSON for `inspect`."""
