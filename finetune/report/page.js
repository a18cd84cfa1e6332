// Tables with a heading sort by the column that is clicked, numbers as numbers.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, heads, column));
  });
}

function sort(table, heads, column) {
  const rows = [...table.tBodies[0].rows];
  const shown = rows.map((row) => row.cells[column].textContent.trim());
  const numbers = shown.map(number);
  const numeric = shown.every((text, at) => text === "" || text === "–" || !isNaN(numbers[at]));
  const down = heads[column].getAttribute("aria-sort") === (numeric ? null : "ascending");
  const sign = down ? -1 : 1;
  const order = rows.map((row, at) => at).sort((a, b) => {
    if (!numeric) return sign * shown[a].localeCompare(shown[b], "zh");
    if (isNaN(numbers[a]) || isNaN(numbers[b])) return isNaN(numbers[a]) - isNaN(numbers[b]);
    return sign * (numbers[a] - numbers[b]);
  });
  table.tBodies[0].append(...order.map((at) => rows[at]));
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}

function number(text) {
  const found = /^[<\s]*([+-]?[\d,]*\.?\d+)(?![\w-])/.exec(text);
  return found ? parseFloat(found[1].replaceAll(",", "")) : NaN;
}
