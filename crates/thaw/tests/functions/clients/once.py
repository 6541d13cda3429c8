"""What is signed counts for a while, and with a nonce once."""

import email.utils
import os
import time

import fc2
from alibabacloud_fc20230330 import models
from alibabacloud_fc20230330.client import Client
from alibabacloud_tea_openapi.models import Config
from darabonba.exceptions import DaraException
from darabonba.runtime import RuntimeOptions

ENV = os.environ
later = Client(Config(
    access_key_id=ENV["KEY"], access_key_secret=ENV["SECRET"], protocol="HTTP", region_id="local",
    endpoint=ENV["ENDPOINT"].split("//")[1],
))


def list_with(headers):
    runtime = RuntimeOptions()
    return later.list_functions_with_options(models.ListFunctionsRequest(), headers, runtime)


def refused(code, headers):
    try:
        list_with(headers)
    except DaraException as error:
        assert error.code == code, (error.code, error)
        return
    raise AssertionError(f"it should be refused with {code}")


def utc(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


nonce = {"x-acs-signature-nonce": ENV["KEY"] + str(time.time())}
assert list_with(nonce).status_code == 200
refused("SignatureNonceUsed", nonce)
for seconds in (-20 * 60, 20 * 60):
    refused("AccessDenied", {"x-acs-date": utc(seconds)})
assert list_with({"x-acs-date": utc(-10 * 60)}).status_code == 200

# The signatures of 2016 have no nonce: what is sent again within the time is taken.
first = fc2.Client(
    endpoint=ENV["ENDPOINT"], accessKeyID=ENV["KEY"], accessKeySecret=ENV["SECRET"]
)
now = {"date": email.utils.formatdate(usegmt=True)}
for _ in range(2):
    first.list_services(headers=now)
for seconds in (-20 * 60, 20 * 60):
    old = {"date": email.utils.formatdate(time.time() + seconds, usegmt=True)}
    try:
        first.list_services(headers=old)
        raise AssertionError("an old date should be refused")
    except fc2.FcError as error:
        assert (error.err_code, error.status_code) == ("AccessDenied", 403), error
