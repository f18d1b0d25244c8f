"""/docs: a page of our own that reads /openapi.json. No script comes from anywhere else."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import HTMLResponse, Response

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>engine</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-weight: 600 } code, pre, textarea { font: 14px/1.4 ui-monospace, monospace }
section { border-top: 1px solid #ddd; padding: .6rem 0 } summary { cursor: pointer }
.method { display: inline-block; width: 4rem; font-weight: 600; color: #06c }
td { padding: .1rem 1rem .1rem 0; vertical-align: top } pre { background: #f6f6f6; padding: .6rem; overflow: auto }
</style>
<h1>engine</h1>
<p>Routes of this server, from <a href="openapi.json"><code>openapi.json</code></a>.</p>
<details><summary>Try a call</summary>
<p><textarea id="body" rows="6" cols="70">{"query": "capital of France", "documents": ["Paris", "Berlin"]}</textarea>
<p><input id="key" type="password" placeholder="API key, if one is needed" size="30">
<button id="send">POST /v1/rerank</button><pre id="answer"></pre></details>
<div id="routes"></div>
<script>
const make = (tag, text, parent) => {
  const node = document.createElement(tag); node.textContent = text ?? ""; parent?.append(node); return node;
};
const typeOf = (schema) => schema.$ref ? schema.$ref.split("/").pop()
  : schema.anyOf ? schema.anyOf.map(typeOf).join(" or ") : schema.enum ? schema.enum.join(" | ") : schema.type ?? "any";
const fieldsOf = (schema, all, parent) => {
  for (const option of schema.anyOf ?? [schema]) {
    const struct = all[typeOf(option)]; if (!struct?.properties) continue;
    make("p", typeOf(option), parent); const table = make("table", "", parent);
    for (const [name, field] of Object.entries(struct.properties)) {
      const row = make("tr", "", table); make("code", name, make("td", "", row)); make("td", typeOf(field), row);
      make("td", (struct.required ?? []).includes(name) ? "required" : "", row);
    }
  }
};
fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, route] of Object.entries(methods)) {
    const details = make("details", "", make("section", "", document.getElementById("routes")));
    const summary = make("summary", "", details); make("span", method.toUpperCase(), summary).className = "method";
    make("code", path, summary); make("span", "  " + (route.summary ?? ""), summary);
    const schema = route.requestBody?.content["application/json"].schema;
    if (schema) fieldsOf(schema, api.components.schemas, details); else make("p", "No body.", details);
  }
});
document.getElementById("send").onclick = async () => {
  const headers = {"Content-Type": "application/json"}, key = document.getElementById("key").value;
  if (key) headers.Authorization = "Bearer " + key;
  const answer = await fetch("v1/rerank", {method: "POST", headers, body: document.getElementById("body").value});
  document.getElementById("answer").textContent = JSON.stringify(await answer.json(), null, 2);
};
</script></html>
"""


async def docs_page(request: Request) -> Response:
    return HTMLResponse(_PAGE)
