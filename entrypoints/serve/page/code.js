// The call as something to paste into a shell or a script. The key itself is never in it.

import { apiKey, byId } from "./common.js";

const url = () => new URL("v1/rerank", location.href.split("#")[0]).href;
const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// A JSON string is a Python string, too; objects here hold strings, and lists of strings or of such objects, only.
function pythonValue(value, indent) {
  if (!Array.isArray(value)) return JSON.stringify(value);
  return `[\n${value.map((item) => `${indent}    ${JSON.stringify(item)},\n`).join("")}${indent}]`;
}

const hasPictures = (call) => [call.query, ...call.documents].some((side) => side.image);

const languages = {
  curl: (call) => [
    `curl -s ${shellQuoted(url())}`,
    ...(apiKey() ? [`-H "Authorization: Bearer $ENGINE_API_KEY"`] : []),
    `-H 'Content-Type: application/json'`,
    // What a picture takes is more than an argument may have.
    hasPictures(call) ? `-d @- <<'BODY'\n${JSON.stringify(call, null, 1)}\nBODY` : `-d ${shellQuoted(JSON.stringify(call, null, 1))}`,
  ].join(" \\\n  "),
  python: (call) => [
    ...(apiKey() ? ["import os", ""] : []),
    "import requests",
    "",
    "answer = requests.post(",
    `    ${JSON.stringify(url())},`,
    ...(apiKey() ? [`    headers={"Authorization": f"Bearer {os.environ['ENGINE_API_KEY']}"},`] : []),
    "    json={",
    ...Object.entries(call).map(([name, value]) => `        ${JSON.stringify(name)}: ${pythonValue(value, "        ")},`),
    "    },",
    ")",
    "answer.raise_for_status()",
    `for result in answer.json()["results"]:`,
    `    print(result["relevance_score"], ${hasPictures(call) ? `result["index"]` : `result["document"]["text"]`})`,
  ].join("\n"),
};

let language = "curl";
let current = { query: "", documents: [] };

export function showCode(call) {
  current = call;
  if (byId("code").open) byId("code-text").textContent = languages[language](current);
}

async function copy(button) {
  language = button.dataset.language;
  showCode(current);
  try {
    await navigator.clipboard.writeText(byId("code-text").textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    // Browsers give pages without TLS no clipboard: the text is selected instead.
    getSelection().selectAllChildren(byId("code-text"));
    byId("copied").textContent = "Selected: press Ctrl + C.";
  }
}

for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => copy(button));
byId("code").addEventListener("toggle", () => showCode(current));
