"""What was agreed: datasets, units, grants and schemas as frozen typed values."""
