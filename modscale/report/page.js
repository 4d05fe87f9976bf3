// What a report's page does where scripts run: points and rows mark each other, tables sort and filter, commands copy.
// Without it all is there to read: a point is a link to its row, and a row's name one to its point.
(() => {
  "use strict";
  const all = (selector, at = document) => Array.from(at.querySelectorAll(selector));
  const root = document.documentElement;
  root.classList.add("js");

  // Marking: whatever has the same key is one network.
  const keyed = new Map();
  for (const one of all("[data-key]")) {
    keyed.set(one.dataset.key, [...(keyed.get(one.dataset.key) || []), one]);
  }
  let marked = null;
  function mark(key) {
    for (const one of keyed.get(marked) || []) {
      one.classList.remove("marked");
      one.removeAttribute("aria-current");
    }
    marked = key === marked ? null : key;
    for (const one of keyed.get(marked) || []) {
      one.classList.add("marked");
      one.setAttribute("aria-current", "true");
    }
  }
  function isShown(box) {
    const place = box.getBoundingClientRect();
    return place.top >= 0 && place.bottom <= root.clientHeight;
  }

  // A row of a table that scrolls comes into its view; the page stays where it is.
  function bringIntoBox(row) {
    const box = row && row.closest(".tall");
    if (!box || row.hidden) return;
    const place = row.getBoundingClientRect();
    const frame = box.getBoundingClientRect();
    if (place.top < frame.top + 60 || place.bottom > frame.bottom) {
      box.scrollTop += place.top - frame.top - (frame.height - place.height) / 2;
    }
  }

  // What is told of a point while it is pointed at.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  function tell(point) {
    const row = document.getElementById(point.dataset.key);
    if (!row) return;
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = row.cells[0].textContent;
    tip.append(head);
    const list = document.createElement("dl");
    for (const cell of Array.from(row.cells).slice(1)) {
      if (!cell.textContent.trim()) continue;
      const name = document.createElement("dt");
      const text = document.createElement("dd");
      name.textContent = cell.dataset.label;
      text.textContent = cell.textContent;
      list.append(name, text);
    }
    tip.append(list);
    tip.hidden = false;
    const at = point.querySelector(".aim").getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const right = at.right + 8 + size.width <= root.clientWidth;
    const left = right ? at.right + 8 : Math.max(4, Math.min(at.left - 8 - size.width, root.clientWidth - size.width - 4));
    const beside = right || at.left - 8 - size.width >= 4;
    const top = beside ? at.top - 10 : at.bottom + 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${Math.max(4, Math.min(top, root.clientHeight - size.height - 4)) + window.scrollY}px`;
  }
  const hush = () => { tip.hidden = true; };
  for (const point of all("a.point")) {
    const title = point.querySelector("title");
    if (title) {  // as the browser shows it, it would stand over ours
      point.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    point.addEventListener("mouseenter", () => tell(point));
    point.addEventListener("focus", () => tell(point));
    point.addEventListener("mouseleave", hush);
    point.addEventListener("blur", hush);
    point.addEventListener("click", (event) => {
      event.preventDefault();
      mark(point.dataset.key);
      if (marked !== null) bringIntoBox(document.getElementById(marked));
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hush();
    if (marked !== null) mark(marked);
  });
  for (const row of all("tr[data-key]")) {
    row.addEventListener("click", (event) => {
      if (String(window.getSelection())) return;  // somebody takes a text out of it
      const link = event.target.closest("a");
      if (link) event.preventDefault();
      mark(row.dataset.key);
      const point = (keyed.get(row.dataset.key) || []).find((one) => one.matches("a.point") && one.getClientRects().length);
      if (link && marked !== null && point && !isShown(point)) point.scrollIntoView({ block: "center" });
    });
  }

  // Tables.
  function sortBy(table, heading, headings) {
    const before = heading.getAttribute("aria-sort");
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[before] || heading.dataset.first;
    for (const one of headings) one.setAttribute("aria-sort", one === heading ? order : "none");
    const at = headings.indexOf(heading);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => {
      const cell = row.cells[at];
      if ("number" in heading.dataset) return "value" in cell.dataset ? Number(cell.dataset.value) : null;
      return cell.textContent.trim() || null;
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = Array.from(table.tBodies[0].rows).map((row) => [value(row), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }
  function filter(table, tools) {
    const words = tools.querySelector(".find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = all(".kind", tools).filter((one) => one.checked).map((one) => one.value);
    const rows = Array.from(table.tBodies[0].rows);
    let shown = 0;
    for (const row of rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent).join("\n").toLowerCase();
      row.hidden = !kinds.includes(row.dataset.kind) || !words.every((word) => text.includes(word));
      shown += !row.hidden;
      for (const point of keyed.get(row.dataset.key)) {
        if (point !== row) point.classList.toggle("faded", row.hidden);
      }
    }
    tools.querySelector("output").textContent = shown === rows.length ? `${shown} networks` : `${shown} of ${rows.length} networks`;
  }
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell", TH: "rowheader" };
  for (const table of all("table.networks")) {
    // On a narrow screen a row is laid out as a block, and would be no row to who listens.
    for (const part of [table, ...all("*", table)]) if (part.tagName in roles) part.setAttribute("role", roles[part.tagName]);
    const headings = Array.from(table.tHead.rows[0].cells);
    for (const heading of headings) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading, headings));
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      heading.setAttribute("role", "columnheader");
    }
    const tools = document.querySelector(`.tools[data-for="${table.id}"]`);
    tools.addEventListener("input", () => filter(table, tools));
    filter(table, tools);
  }

  // Copying. Where the clipboard is closed to pages, the text is chosen, for the keys that copy.
  function choose(node) {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
  for (const button of all("button.copy")) {
    const code = button.parentElement.querySelector("code");
    const word = button.textContent;
    const say = (text) => {
      button.textContent = text;
      setTimeout(() => { button.textContent = word; }, 2000);
    };
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        say("copied");
      } catch {
        choose(code);
        let done = false;
        try { done = document.execCommand("copy"); } catch { done = false; }
        say(done ? "copied" : "press Ctrl+C");
      }
    });
  }

  window.addEventListener("beforeprint", () => { for (const one of all("details")) one.open = true; });
})();
