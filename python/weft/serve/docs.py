"""The page at /docs: reads /openapi.json and shows it. It needs no network and no file but itself."""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Weft: HTTP interface</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --quiet: #888; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.4rem; }
  h2 { font-size: 1rem; margin: 2rem 0 .3rem; color: var(--quiet); font-weight: 600; }
  details { border-top: 1px solid var(--line); padding: .4rem 0; }
  summary { cursor: pointer; }
  code, pre { font: 13px/1.5 ui-monospace, monospace; }
  .method { display: inline-block; width: 4.5rem; font-weight: 600; }
  .why { color: var(--quiet); display: block; padding-left: 5.5rem; }
  pre { overflow: auto; padding: .6rem; border: 1px solid var(--line); border-radius: 4px; }
  table { border-collapse: collapse; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
</style>
<h1>Weft: HTTP interface</h1>
<p>Read from <a href="/openapi.json">/openapi.json</a>. Every answer carries <code>Weft-Position</code> and
<code>Weft-Request-Id</code>.</p>
<main id="routes"></main>
<script>
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const resolve = (schema, all, depth) => {
  if (!schema || depth > 6) return schema;
  if (schema.$ref) return resolve(all[schema.$ref.split("/").pop()], all, depth + 1);
  const copy = Array.isArray(schema) ? [] : {};
  for (const [key, value] of Object.entries(schema))
    copy[key] = value && typeof value === "object" ? resolve(value, all, depth + 1) : value;
  return copy;
};
const shape = (content, all) => {
  const schema = content && content["application/json"] && content["application/json"].schema;
  return schema ? make("pre", JSON.stringify(resolve(schema, all, 0), null, 2)) : make("span");
};
const show = (path, method, operation, all) => {
  const box = make("details"), head = make("summary");
  head.append(make("span", method.toUpperCase(), "method"), make("code", path), make("span", operation.summary, "why"));
  box.append(head);
  box.addEventListener("toggle", () => {
    if (!box.open || box.childElementCount > 1) return;
    const inputs = operation.parameters.map(p => p.name + " (" + p.in + ")").join(", ");
    if (inputs) box.append(make("p", "Parameters: " + inputs));
    if (operation.requestBody) box.append(make("h2", "Body"), shape(operation.requestBody.content, all));
    const table = make("table");
    for (const [status, response] of Object.entries(operation.responses)) {
      const row = make("tr");
      row.append(make("td", status), make("td", response.description));
      table.append(row);
      if (status < 300 && response.content) box.append(make("h2", "Answer"), shape(response.content, all));
    }
    box.append(make("h2", "Statuses"), table);
  });
  return box;
};
fetch("/openapi.json").then(answer => answer.json()).then(spec => {
  const main = document.getElementById("routes"), sections = {};
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, operation] of Object.entries(methods))
      (sections[operation.tags[0]] ??= []).push(show(path, method, operation, spec.components.schemas));
  for (const [tag, boxes] of Object.entries(sections)) main.append(make("h2", tag), ...boxes);
});
</script>
</html>
"""
