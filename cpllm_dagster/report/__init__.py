"""What a library's tables say to a person: tables in, text for a terminal and markdown out."""
