"""A key that was deleted gets nobody in."""

import os

import fc2

ENV = os.environ
client = fc2.Client(
    endpoint=ENV["ENDPOINT"], accessKeyID=ENV["KEY"], accessKeySecret=ENV["SECRET"]
)
try:
    client.list_services()
except fc2.FcError as error:
    assert (error.err_code, error.status_code) == ("InvalidAccessKeyID", 403), error
else:
    raise AssertionError("a deleted key should be refused")
