"""How Kafka logs are read and written, and how Faust is fed whole partition batches."""
