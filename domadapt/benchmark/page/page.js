"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  for (const part of all("[data-script]")) part.hidden = false;

  // Sorting: each body of the table by itself, so that no oracle is ranked among the others.
  const heads = all(".board thead th");
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (column === 0) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v ? Number(cell.dataset.v) : null;
  };
  const sort = (column, way) => {
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? way : "none"));
    const sign = way === "ascending" ? 1 : -1;
    for (const body of all(".board tbody")) {
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => {
        // What has no value is last either way.
        if (a === null || b === null) return (a === null) - (b === null);
        return a < b ? -sign : a > b ? sign : 0;
      });
      body.append(...rows.map(([, row]) => row));
    }
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      sort(column, head.getAttribute("aria-sort") === first ? other : first);
    });
  });

  // A choice of task in place of what unfolds.
  const choices = [];
  for (const section of all("[data-select]")) {
    const parts = all("details[data-t]", section);
    if (parts.length < 2) continue;
    const label = document.createElement("label");
    const select = document.createElement("select");
    label.className = "choice";
    label.append(section.dataset.select + ": ", select);
    parts.forEach((part, i) => {
      select.add(new Option(part.dataset.name, i));
      part.open = true;
      part.firstElementChild.hidden = true;
    });
    section.insertBefore(label, section.querySelector("h2").nextSibling);
    const show = () => parts.forEach((part, i) => (part.hidden = i !== Number(select.value)));
    select.addEventListener("change", show);
    show();
    choices.push((hidden) => {
      parts.forEach((part, i) => {
        const gone = hidden.has(part.dataset.t);
        select.options[i].hidden = select.options[i].disabled = gone;
      });
      const left = [...select.options].find((option) => !option.disabled);
      if (left && select.selectedOptions[0]?.disabled) select.value = left.value;
      show();
    });
  }

  // Filters: one rule hides whatever bears the number of a method or task.
  const form = document.getElementById("filters");
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [sheet];
  const oracle = document.getElementById("no-oracle");
  const [methods, tasks] = all("fieldset", form).map((set) => all("[data-hides]", set));
  const filter = () => {
    const off = (box) => !box.checked || (oracle.checked && "oracle" in box.dataset);
    const hidden = [...methods, ...tasks].filter(off).map((box) => box.dataset.hides);
    sheet.replaceSync(hidden.map((s) => "main " + s).join(",") + (hidden.length ? "{display:none!important}" : ""));
    const gone = new Set(tasks.flatMap((box, i) => (box.checked ? [] : [String(i)])));
    for (const choice of choices) choice(gone);
    const means = new Map();
    for (const row of all(".map tbody tr")) {
      const cells = [...row.cells].slice(1).filter((cell) => !gone.has(cell.dataset.t));
      const values = cells.map((cell) => cell.dataset.v).filter((v) => v !== undefined).map(Number);
      const whole = values.length === cells.length && values.length > 0;
      means.set(row.dataset.m, whole ? values.reduce((a, b) => a + b) / values.length : null);
    }
    for (const row of all(".board tbody tr")) {
      const mean = means.get(row.dataset.m) ?? null;
      row.cells[1].dataset.v = mean === null ? "" : mean;
      row.cells[1].textContent = mean === null ? "–" : (100 * mean).toFixed(1);
    }
    document.body.classList.toggle("with-some", gone.size > 0);
    const sorted = heads.findIndex((head) => head.getAttribute("aria-sort") !== "none");
    // A column that has gone cannot be sorted by, and one whose values have changed is sorted anew.
    if (sorted === 1) gone.size ? sort(1, heads[1].getAttribute("aria-sort")) : sort(2, "descending");
    document.getElementById("shown").textContent =
      `Shown: ${methods.filter((box) => !off(box)).length} of ${methods.length} methods, ` +
      `${tasks.length - gone.size} of ${tasks.length} tasks.`;
  };
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of all("[data-all]", form))
    button.addEventListener("click", () => {
      for (const box of all("[data-hides]", button.closest("fieldset"))) box.checked = button.dataset.all !== "";
      filter();
    });
  // A page that is opened again may keep its boxes as they were.
  form.reset();
  filter();
})();
