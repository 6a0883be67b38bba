// A click on a column's head sorts a table. An address that ends in #NAME opens what hides that element.
(function () {
  "use strict";
  function value(cell) {
    var given = cell.getAttribute("data-value");
    return given === null ? cell.textContent.trim() : given;
  }
  function compare(a, b) {
    var x = parseFloat(a), y = parseFloat(b), numbers = !isNaN(x) && !isNaN(y) && isFinite(a) && isFinite(b);
    return numbers ? x - y : a.localeCompare(b, undefined, {numeric: true});
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead th").forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") === "descending" ||
          (head.getAttribute("aria-sort") === null && head.classList.contains("text"));
        table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows);
        rows.map(function (row, place) { return {row: row, place: place, value: value(row.cells[column])}; })
          .sort(function (a, b) {
            // Cells without a value stay last in both directions.
            if (a.value === "" || b.value === "") {
              return (a.value === "") - (b.value === "") || a.place - b.place;
            }
            return (up ? 1 : -1) * compare(a.value, b.value) || a.place - b.place;
          })
          .forEach(function (each) { body.appendChild(each.row); });
      });
    });
  });
  function reveal() {
    var found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var each = found; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") { each.open = true; }
    }
    if (found) { found.scrollIntoView({block: "center"}); }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
})();
