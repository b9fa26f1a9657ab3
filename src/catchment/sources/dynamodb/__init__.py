"""The DynamoDB source: a table's items, and then its stream."""
