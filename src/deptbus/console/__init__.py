"""The web page of the data office: what it shows, who may see it, and who may do what."""
