"use strict";
(function () {
  var boxes = Array.prototype.slice.call(document.querySelectorAll(".plot"));
  // What hovering shows, once a page; figures hold numbers into it.
  var texts = JSON.parse(document.getElementById("texts").textContent);

  function colours() {
    var style = getComputedStyle(document.documentElement);
    function read(name) { return style.getPropertyValue(name).trim(); }
    return { ink: read("--ink"), line: read("--line"), grid: read("--grid"), panel: read("--panel") };
  }

  // Figures come with the colours of a white page; this is what changes with the reader's theme.
  function themed(layout) {
    var c = colours();
    var change = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.color": c.ink,
      "legend.font.color": c.ink,
      "title.font.color": c.ink,
      "hoverlabel.bgcolor": c.panel,
      "hoverlabel.bordercolor": c.line,
      "hoverlabel.font.color": c.ink
    };
    // Names that stand in a figure cover the lines behind them.
    (layout.annotations || []).forEach(function (_, i) {
      change["annotations[" + i + "].bgcolor"] = c.panel;
      change["annotations[" + i + "].font.color"] = c.ink;
    });
    Object.keys(layout).forEach(function (key) {
      if (/^[xy]axis\d*$/.test(key)) {
        change[key + ".color"] = c.ink;
        change[key + ".linecolor"] = c.line;
        change[key + ".tickcolor"] = c.line;
        change[key + ".gridcolor"] = c.grid;
      }
    });
    return change;
  }

  function narrow(box, layout) {
    return box.clientWidth < 520 ? { "font.size": 11, "legend.font.size": 10.5 } : {};
  }

  function draw(box) {
    var figure = JSON.parse(box.nextElementSibling.textContent);
    figure.data.forEach(function (trace) {
      if (Array.isArray(trace.hovertext)) { trace.hovertext = trace.hovertext.map(function (i) { return texts[i]; }); }
    });
    figure.layout.height = figure.layout.height || Number(box.dataset.height);
    figure.layout.autosize = true;
    var config = {
      responsive: true,
      displaylogo: false,
      // Small figures keep their hover texts; a toolbar would cover them.
      displayModeBar: box.clientWidth < 520 || Number(box.dataset.height) < 300 ? false : "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { scale: 2, filename: box.dataset.name || "pdsearch" }
    };
    return Plotly.newPlot(box, figure.data, figure.layout, config).then(function () {
      return Plotly.relayout(box, Object.assign(themed(figure.layout), narrow(box, figure.layout)));
    });
  }

  function restyle() {
    boxes.forEach(function (box) { if (box.layout) { Plotly.relayout(box, themed(box.layout)); } });
  }

  // Plotly comes compressed; its text is one of the two scripts that the page's policy lets run.
  function unpacked() {
    var bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), function (c) { return c.charCodeAt(0); });
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  function run(text) {
    var script = document.createElement("script");
    script.textContent = text;
    document.head.appendChild(script).remove();
  }

  new Promise(function (resolve) { resolve(unpacked()); }).then(run).then(function () {
    return Promise.all(boxes.map(draw));
  }).then(function () {
    document.body.dataset.drawn = boxes.length;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
    matchMedia("print").addEventListener("change", restyle);
    // Paper is narrower than most windows: each figure is drawn anew for its width there.
    addEventListener("beforeprint", function () { boxes.forEach(function (box) { Plotly.Plots.resize(box); }); });
  }).catch(function (error) {
    document.getElementById("undrawn").hidden = false;
    console.error(error);
  });

  // Tables: a click on a heading sorts by it, once more turns the order round.
  function key(cell) {
    var text = cell.dataset.key !== undefined ? cell.dataset.key : cell.textContent.trim();
    var number = Number(text);
    return text === "" ? null : isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    if (typeof a === "number") { return -1; }
    if (typeof b === "number") { return 1; }
    return a < b ? -1 : a > b ? 1 : 0;
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var button = head.querySelector("button");
      if (!button) { return; }
      button.addEventListener("click", function () {
        var turn = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
        if (!head.hasAttribute("aria-sort") && head.dataset.first === "ascending") { turn = 1; }
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
        var rows = Array.prototype.slice.call(table.tBodies[0].rows);
        rows.sort(function (p, q) {
          var a = key(p.cells[column]), b = key(q.cells[column]);
          // What has no value stays at the end, whichever way.
          if (a === null || b === null) { return a === b ? 0 : a === null ? 1 : -1; }
          return turn * compare(a, b);
        });
        rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
      });
    });
  });

  document.querySelectorAll("input[data-filter]").forEach(function (input) {
    var table = document.getElementById(input.dataset.filter);
    input.addEventListener("input", function () {
      var words = input.value.toLowerCase().split(/\s+/);
      Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
      });
    });
  });
})();
