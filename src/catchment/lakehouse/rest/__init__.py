"""The lake's catalog for others' readers: Iceberg's REST protocol, read-only, on this machine.

published   names and metadata of the lake, never a file outside the warehouse
protocol    answers, errors, names and pages as Iceberg's OpenAPI document has them; pure
endpoint    which request gets which answer
server      HTTP on 127.0.0.1
"""
