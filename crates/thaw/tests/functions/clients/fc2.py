"""aliyun-fc2, the Python SDK of the API of 2016: a service from nothing to nothing."""

import base64
import json
import os
import time

import fc2

ENV = os.environ
client = fc2.Client(
    endpoint=ENV["ENDPOINT"], accessKeyID=ENV["KEY"], accessKeySecret=ENV["SECRET"]
)


def refused(code, status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except fc2.FcError as error:
        assert (error.err_code, error.status_code) == (code, status), error
        assert error.request_id not in ("", "unknown"), error
        return json.loads(error.message)
    raise AssertionError(f"{call.__name__} should be refused with {code}")


# Services: made, found, changed, and only while they are what one thinks.
made = client.create_service("py", description="first")
assert made.data["serviceName"] == "py" and made.data["serviceId"], made.data
refused("ServiceAlreadyExists", 409, client.create_service, "py")
got = client.get_service("py")
assert got.data["description"] == "first" and got.headers["Etag"]
updated = client.update_service(
    "py", description="second", headers={"if-match": got.headers["Etag"]}
)
assert updated.data["description"] == "second"
stale = {"if-match": got.headers["Etag"]}
refused("PreconditionFailed", 412, client.update_service, "py", description="x", headers=stale)
for name in ("py-a", "py-b"):
    client.create_service(name)
first = client.list_services(limit=2, prefix="py").data
assert [it["serviceName"] for it in first["services"]] == ["py", "py-a"], first
rest = client.list_services(limit=2, prefix="py", nextToken=first["nextToken"]).data
assert [it["serviceName"] for it in rest["services"]] == ["py-b"], rest
assert not rest.get("nextToken")

# Functions.
image = {"image": ENV["IMAGE"], "command": '["/function"]', "accelerationType": "None"}
made = client.create_function(
    "py", "web", "custom-container", "none", memorySize=128, timeout=30, initializer=None,
    environmentVariables={"WHO": "python"}, instanceConcurrency=2, customContainerConfig=image,
    caPort=9000,
).data
assert made["customContainerConfig"]["image"] == ENV["IMAGE"], made
assert made["customContainerConfig"]["command"] == '["/function"]', made
assert made["caPort"] == 9000 and made["instanceConcurrency"] == 2, made
got = client.get_function("py", "web")
etag = {"if-match": got.headers["Etag"]}
updated = client.update_function("py", "web", memorySize=192, headers=etag)
assert updated.data["memorySize"] == 192 and updated.data["timeout"] == 30
refused("PreconditionFailed", 412, client.update_function, "py", "web", memorySize=256, headers=etag)
refused("FunctionNotFound", 404, client.get_function, "py", "nix")
refused("ServiceNotFound", 404, client.get_function, "nix", "web")
wrong = {"image": ENV["IMAGE"] + "-nix"}
error = refused(
    "InvalidArgument", 400, client.create_function, "py", "bad", "custom-container", "none",
    customContainerConfig=wrong,
)
assert wrong["image"] in error["ErrorMessage"], error
listed = client.list_functions("py", limit=10, prefix="w").data
assert [it["functionName"] for it in listed["functions"]] == ["web"], listed

# Invocations.
answer = client.invoke_function("py", "web", payload=b"hello")
assert answer.data == b"hello", answer.data
assert "X-Fc-Request-Id" in answer.headers and "X-Fc-Invocation-Duration" in answer.headers
answer = client.invoke_function("py", "web", payload="print it", headers={"x-fc-log-type": "Tail"})
log = base64.b64decode(answer.headers["X-Fc-Log-Result"]).decode()
assert "it\n" in log and "FC Invoke Start RequestId: " + answer.headers["X-Fc-Request-Id"] in log, log
assert b"WHO=python" in client.invoke_function("py", "web", payload="env").data
try:
    client.invoke_function("py", "web", payload="fail")
    raise AssertionError("the function's failure should be raised")
except fc2.FcError as error:
    assert error.status_code == 200, error
    assert json.loads(error.message)["errorMessage"] == "failed as told", error
queued = client.invoke_function(
    "py", "web", payload="x",
    headers={"x-fc-invocation-type": "Async", "x-fc-stateful-async-invocation-id": "py-1"},
)
assert queued.data == b"", queued.data

# Versions and aliases.
version = client.publish_version("py", description="v").data
assert version["versionId"] == "1", version
client.update_function("py", "web", environmentVariables={"WHO": "later"})
client.publish_version("py")
listed = client.list_versions("py", limit=1).data
assert listed["versions"][0]["versionId"] == "2" and listed["direction"] == "BACKWARD", listed
assert client.list_versions("py", nextToken=listed["nextToken"]).data["versions"][0]["versionId"] == "1"
alias = client.create_alias("py", "live", "1", description="stays").data
assert alias["versionId"] == "1", alias
assert b"WHO=python" in client.invoke_function("py", "web", payload="env", qualifier="live").data
alias = client.update_alias("py", "live", "1", additionalVersionWeight={"2": 1.0}).data
assert alias["additionalVersionWeight"] == {"2": 1.0}, alias
assert b"WHO=later" in client.invoke_function("py", "web", payload="env", qualifier="live").data
assert client.get_function("py", "web", qualifier="live").data["memorySize"] == 192
assert [it["aliasName"] for it in client.list_aliases("py").data["aliases"]] == ["live"]

# Triggers, whose configuration is an object here.
config = {"authType": "function", "methods": ["GET", "POST"]}
trigger = client.create_trigger("py", "web", "front", "http", config, "", "").data
assert trigger["triggerConfig"] == config and trigger["triggerId"], trigger
answer = client.do_http_request("GET", "py", "web", "/a b", params={"y": [2, 1], "x": "/"})
assert answer.status_code == 200, answer.text
assert answer.text.startswith("GET /2016-08-15/proxy/py/web/a"), answer.text
config["methods"] = ["GET"]
trigger = client.update_trigger("py", "web", "front", triggerConfig=config).data
assert trigger["triggerConfig"] == config, trigger
assert client.do_http_request("POST", "py", "web", "/x", body="b").status_code == 403
assert client.get_trigger("py", "web", "front").data["triggerType"] == "http"
timer = {"cronExpression": "@every 1h", "enable": False, "payload": "tick"}
client.create_trigger("py", "web", "clock", "timer", timer, "", "")
names = [it["triggerName"] for it in client.list_triggers("py", "web", limit=100).data["triggers"]]
assert names == ["clock", "front"], names

# What else the client has a name for.
config = {"maxAsyncRetryAttempts": 1, "maxAsyncEventAgeInSeconds": 60}
put = client.put_function_async_invoke_config("py", "LATEST", "web", config).data
assert put["maxAsyncRetryAttempts"] == 1, put
assert client.get_function_async_invoke_config("py", "LATEST", "web").data["maxAsyncEventAgeInSeconds"] == 60
client.delete_function_async_invoke_config("py", "LATEST", "web")
refused("AsyncConfigNotExists", 404, client.get_function_async_invoke_config, "py", "LATEST", "web")
assert client.put_on_demand_config("py", "LATEST", "web", 3).data["maximumInstanceCount"] == 3
client.delete_on_demand_config("py", "LATEST", "web")
assert client.put_provision_config("py", "LATEST", "web", 0).data["target"] == 0
routes = {"routes": [{"path": "/*", "serviceName": "py", "functionName": "web", "qualifier": "LATEST"}]}
domain = client.create_custom_domain("py.example.test", "HTTP", routes).data
assert domain["routeConfig"]["routes"][0]["functionName"] == "web", domain
client.delete_custom_domain("py.example.test")
refused("DomainNameNotFound", 404, client.get_custom_domain, "py.example.test")

arn = f"acs:fc:far:{ENV['ACCOUNT']}:services/py/functions/web"
client.tag_resource(arn, {"team": "a", "stage": "test"})
assert client.get_resource_tags(arn).data["tags"] == {"team": "a", "stage": "test"}
service = f"acs:fc:far:{ENV['ACCOUNT']}:services/py"
client.tag_resource(service, {"team": "a", "stage": "test"})
services = lambda **tags: [it["serviceName"] for it in client.list_services(tags=tags).data["services"]]
assert services(team="a") == services(team="a", stage="test") == ["py"]
assert services(team="b") == services(team="a", stage="live") == []
client.untag_resource(service, ["team", "stage"])
client.untag_resource(arn, ["stage"])
assert client.get_resource_tags(arn).data["tags"] == {"team": "a"}
client.invoke_function("py", "web", payload="x")
assert len(client.list_instances("py", "LATEST", "web").data["instances"]) >= 1
client.put_function_async_invoke_config("py", "LATEST", "web", {"maxAsyncRetryAttempts": 0})
assert len(client.list_function_async_invoke_configs("py", "web").data["configs"]) == 1
assert client.list_on_demand_config().data["configs"] == []
assert client.list_provision_configs("py", "LATEST").data["provisionConfigs"] == []

# How far the acceleration of an image is.
image["accelerationType"] = "Default"
client.create_function("py", "fast", "custom-container", "none", customContainerConfig=image)
seen = []
for _ in range(1200):
    info = client.get_function("py", "fast").data["customContainerConfig"]["accelerationInfo"]
    seen.append(info["status"])
    if seen[-1] == "Ready":
        break
    time.sleep(0.05)
assert set(seen) <= {"Preparing", "Ready"} and seen[-1] == "Ready", seen[-1]
assert client.invoke_function("py", "fast", payload=b"fast").data == b"fast"
client.delete_function("py", "fast")

# Nobody else gets in.
for key, secret, code in [
    (ENV["KEY"], "wrong", "SignatureNotMatch"), ("nobody", ENV["SECRET"], "InvalidAccessKeyID")
]:
    other = fc2.Client(endpoint=ENV["ENDPOINT"], accessKeyID=key, accessKeySecret=secret)
    refused(code, 403, other.get_service, "py")

# Away with all of it, from the inside out.
refused("FunctionNotEmpty", 409, client.delete_function, "py", "web")
refused("ServiceNotEmpty", 409, client.delete_service, "py")
for name in ("clock", "front"):
    client.delete_trigger("py", "web", name)
client.delete_function("py", "web")
client.delete_alias("py", "live")
for number in ("1", "2"):
    client.delete_version("py", number)
for name in ("py", "py-a", "py-b"):
    client.delete_service(name)
refused("ServiceNotFound", 404, client.get_service, "py")
