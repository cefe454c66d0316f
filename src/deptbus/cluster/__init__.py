"""The broker and its topics: jars, Java, the embedded default, plan and apply."""
