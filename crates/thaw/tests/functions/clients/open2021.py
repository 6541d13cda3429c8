"""alibabacloud-fc-open20210406, the SDK of the API of 2021."""

import base64
import json
import os
import time

from Tea.exceptions import TeaException
from alibabacloud_fc_open20210406 import models
from alibabacloud_fc_open20210406.client import Client
from alibabacloud_tea_openapi.models import Config
from alibabacloud_tea_util.models import RuntimeOptions

ENV = os.environ


def client_of(key, secret):
    return Client(Config(
        access_key_id=key, access_key_secret=secret, endpoint=ENV["ENDPOINT"].split("//")[1],
        protocol="HTTP", region_id="local",
    ))


client = client_of(ENV["KEY"], ENV["SECRET"])


def refused(code, call, *args):
    try:
        call(*args)
    except TeaException as error:
        assert error.code == code, error
        assert error.message and "None" not in error.message, error
        return error
    raise AssertionError(f"{call.__name__} should be refused with {code}")


runtime = RuntimeOptions()
made = client.create_service(models.CreateServiceRequest(service_name="open", description="first"))
assert made.body.service_name == "open" and made.body.service_id
got = client.get_service("open", models.GetServiceRequest())
etag = got.headers["etag"]
update = models.UpdateServiceRequest(description="second")
headers = models.UpdateServiceHeaders(if_match=etag)
assert client.update_service_with_options("open", update, headers, runtime).body.description == "second"
refused("PreconditionFailed", client.update_service_with_options, "open", update, headers, runtime)
client.create_service(models.CreateServiceRequest(service_name="open-a"))
page = client.list_services(models.ListServicesRequest(limit=1, prefix="open")).body
assert [it.service_name for it in page.services] == ["open"] and page.next_token
page = client.list_services(models.ListServicesRequest(prefix="open", next_token=page.next_token)).body
assert [it.service_name for it in page.services] == ["open-a"] and not page.next_token

container = models.CustomContainerConfig(image=ENV["IMAGE"], acceleration_type="None", web_server_mode=True)
health = models.CustomHealthCheckConfig(http_get_url="/ready", period_seconds=1)
made = client.create_function("open", models.CreateFunctionRequest(
    function_name="web", runtime="custom-container", handler="none", memory_size=128, timeout=30,
    ca_port=9000, cpu=0.1, disk_size=512, custom_container_config=container,
    custom_health_check_config=health, environment_variables={"WHO": "2021"},
)).body
assert made.custom_container_config.image == ENV["IMAGE"], made
assert made.cpu == 0.1 and made.custom_health_check_config.http_get_url == "/ready", made
got = client.get_function("open", "web", models.GetFunctionRequest())
headers = models.UpdateFunctionHeaders(if_match=got.headers["etag"])
update = models.UpdateFunctionRequest(memory_size=192)
updated = client.update_function_with_options("open", "web", update, headers, runtime).body
assert (updated.memory_size, updated.timeout) == (192, 30), updated
refused("PreconditionFailed", client.update_function_with_options, "open", "web", update, headers, runtime)
refused("FunctionNotFound", client.get_function, "open", "nix", models.GetFunctionRequest())
listed = client.list_functions("open", models.ListFunctionsRequest(limit=10)).body.functions
assert [it.function_name for it in listed] == ["web"]

# How far the acceleration of an image is.
fast = models.CustomContainerConfig(image=ENV["IMAGE"], acceleration_type="Default")
client.create_function("open", models.CreateFunctionRequest(
    function_name="fast", runtime="custom-container", handler="none", custom_container_config=fast,
))
seen = []
for _ in range(1200):
    got = client.get_function("open", "fast", models.GetFunctionRequest()).body
    seen.append(got.custom_container_config.acceleration_info.status)
    if seen[-1] == "Ready":
        break
    time.sleep(0.05)
assert set(seen) <= {"Preparing", "Ready"} and seen[-1] == "Ready", seen[-1]
client.delete_function("open", "fast")


def invoke(text, qualifier=None, **headers):
    request = models.InvokeFunctionRequest(body=text.encode(), qualifier=qualifier)
    headers = models.InvokeFunctionHeaders(**headers)
    return client.invoke_function_with_options("open", "web", request, headers, runtime)


answer = invoke("hello", x_fc_log_type="Tail")
assert answer.body == b"hello" and "x-fc-log-result" in answer.headers, answer
assert "FC Invoke Start" in base64.b64decode(answer.headers["x-fc-log-result"]).decode()
failed = invoke("fail")
assert failed.status_code == 200, failed
assert failed.headers["x-fc-error-type"] == "UnhandledInvocationError", failed.headers
assert json.loads(failed.body)["errorMessage"] == "failed as told", failed.body
queued = invoke("later", x_fc_invocation_type="Async", x_fc_stateful_async_invocation_id="job-1")
assert queued.status_code == 202, queued
for _ in range(200):
    request = models.GetStatefulAsyncInvocationRequest()
    task = client.get_stateful_async_invocation("open", "web", "job-1", request).body
    if task.status == "Succeeded":
        break
    time.sleep(0.05)
assert (task.status, task.invocation_id) == ("Succeeded", "job-1"), task
request = models.ListStatefulAsyncInvocationsRequest(limit=10)
tasks = client.list_stateful_async_invocations("open", "web", request).body.invocations
assert [it.invocation_id for it in tasks] == ["job-1"], tasks

queued = invoke("sleep 20000", x_fc_invocation_type="Async", x_fc_stateful_async_invocation_id="job-2")
client.stop_stateful_async_invocation("open", "web", "job-2", models.StopStatefulAsyncInvocationRequest())
for _ in range(200):
    request = models.GetStatefulAsyncInvocationRequest()
    task = client.get_stateful_async_invocation("open", "web", "job-2", request).body
    if task.status == "Stopped":
        break
    time.sleep(0.05)
assert task.status == "Stopped", task

version = client.publish_service_version("open", models.PublishServiceVersionRequest()).body.version_id
assert version == "1"
update = models.UpdateFunctionRequest(environment_variables={"WHO": "later"})
client.update_function("open", "web", update)
alias = models.CreateAliasRequest(alias_name="live", version_id=version)
assert client.create_alias("open", alias).body.alias_name == "live"
assert b"WHO=2021" in invoke("env", qualifier="live").body
listed = client.list_service_versions("open", models.ListServiceVersionsRequest()).body
assert [it.version_id for it in listed.versions] == ["1"] and listed.direction == "BACKWARD"
assert [it.alias_name for it in client.list_aliases("open", models.ListAliasesRequest()).body.aliases] == ["live"]

# The configuration of a trigger is a text here.
config = json.dumps({"authType": "anonymous", "methods": ["GET"]})
trigger = client.create_trigger("open", "web", models.CreateTriggerRequest(
    trigger_name="front", trigger_type="http", trigger_config=config,
)).body
assert json.loads(trigger.trigger_config) == json.loads(config), trigger
assert trigger.url_internet == ENV["ENDPOINT"] + "/2016-08-15/proxy/open/web/", trigger
answer = client.invoke_anonymous_httptrigger(trigger.url_internet + "x", "GET", None, {})
assert answer.status_code == 200 and answer.text.startswith("GET /2016-08-15/proxy/open/web/x")
config = json.dumps({"authType": "function", "methods": ["GET", "POST"]})
client.update_trigger("open", "web", "front", models.UpdateTriggerRequest(trigger_config=config))
answer = client.invoke_anonymous_httptrigger(trigger.url_internet, "GET", None, {})
assert answer.status_code == 400 and answer.json()["Code"] == "MissingRequiredHeader", answer.text
answer = client.invoke_httptrigger(trigger.url_internet + "x?b=2&a=1", "POST", b"body", {})
assert answer.status_code == 200 and answer.text.endswith("body"), answer.text
assert len(client.list_triggers("open", "web", models.ListTriggersRequest()).body.triggers) == 1

config = models.PutFunctionAsyncInvokeConfigRequest(max_async_retry_attempts=1, stateful_invocation=True)
assert client.put_function_async_invoke_config("open", "web", config).body.max_async_retry_attempts == 1
limit = models.PutFunctionOnDemandConfigRequest(maximum_instance_count=3)
assert client.put_function_on_demand_config("open", "web", limit).body.maximum_instance_count == 3
limit = models.PutProvisionConfigRequest(target=0)
assert client.put_provision_config("open", "web", limit).body.target == 0

for key, secret, code in [
    (ENV["KEY"], "wrong", "SignatureNotMatch"), ("nobody", ENV["SECRET"], "InvalidAccessKeyID")
]:
    refused(code, client_of(key, secret).get_service, "open", models.GetServiceRequest())

refused("FunctionNotEmpty", client.delete_function, "open", "web")
client.delete_trigger("open", "web", "front")
client.delete_function("open", "web")
client.delete_alias("open", "live")
client.delete_service_version("open", version)
client.delete_service("open")
client.delete_service("open-a")
refused("ServiceNotFound", client.get_service, "open", models.GetServiceRequest())
