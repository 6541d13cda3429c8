"""A small web service: an API with validated models, templates and a test client's worth of imports."""

import os

import fastapi
import jinja2
import pydantic
import requests
import uvicorn

app = fastapi.FastAPI()
page = jinja2.Template("hello, {{ greeting.name }}\n")


class Greeting(pydantic.BaseModel):
    name: str = "world"


@app.get("/")
def hello(name: str = "world") -> dict[str, str]:
    text = page.render(greeting=Greeting(name=name))
    return {"text": text, "client": requests.__version__}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8080")))
