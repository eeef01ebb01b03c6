"""Queue a workflow (API form), wait for it, fetch the generators it saved: SERVER WORKFLOW.json FOLDER"""

import json
import sys
import time
import uuid
from pathlib import Path
from urllib import error, parse, request

server, workflow, folder = sys.argv[1].rstrip("/"), Path(sys.argv[2]), Path(sys.argv[3])
body = {"prompt_id": str(uuid.uuid4()), "client_id": str(uuid.uuid4())}
body["prompt"] = json.loads(workflow.read_text(encoding="utf-8"))
try:
    request.urlopen(request.Request(f"{server}/prompt", json.dumps(body).encode()))
except error.HTTPError as refused:  # the answer names the node, the input and the reason
    sys.exit(refused.read().decode())
while not (found := json.load(request.urlopen(f"{server}/history/{body['prompt_id']}"))):
    time.sleep(1)
run = found[body["prompt_id"]]
if run["status"]["status_str"] != "success":
    sys.exit(json.dumps(run["status"]["messages"][-1]))
folder.mkdir(parents=True, exist_ok=True)
for saved in [file for output in run["outputs"].values() for file in output.get("generators", [])]:
    answer = request.urlopen(f"{server}/view?{parse.urlencode(saved)}")
    (folder / Path(saved["filename"]).name).write_bytes(answer.read())
