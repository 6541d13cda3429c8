"""A machine-learning handler: imports TensorFlow, runs a tiny model, then answers HTTP."""

import http.server
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy
import tensorflow

model = tensorflow.keras.Sequential(
    [
        tensorflow.keras.Input(shape=(16,)),
        tensorflow.keras.layers.Dense(32, activation="relu"),
        tensorflow.keras.layers.Dense(1),
    ]
)
model(numpy.zeros((1, 16), dtype="float32"))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        value = float(model(numpy.ones((1, 16), dtype="float32"))[0][0])
        body = json.dumps({"value": value}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


port = int(os.environ.get("PORT", "8080"))
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
