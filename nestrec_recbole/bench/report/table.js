// The table of results: sorted by the buttons in its head, filtered by words and by dataset.
const table = document.getElementById('table');
const body = table.tBodies[0];

function cellValue(row, column, isText) {
  const cell = row.cells[column];
  const own = cell.dataset.sort;
  if (isText) return (own === undefined ? cell.textContent : own).trim().toLowerCase();
  return own === undefined || own === '' ? null : Number(own);
}

// What has no value stays at the end in both directions.
function sortTable(head) {
  const column = head.cellIndex, isText = head.dataset.kind === 'text';
  const first = isText ? 'ascending' : 'descending';
  const other = isText ? 'descending' : 'ascending';
  const order = head.getAttribute('aria-sort') === first ? other : first;
  for (const one of table.tHead.rows[0].cells) one.setAttribute('aria-sort', one === head ? order : 'none');
  const sign = order === 'ascending' ? 1 : -1;
  const keyed = [...body.rows].map(row => [cellValue(row, column, isText), row]);
  const isMissing = value => value === null || value === '';
  keyed.sort(([a], [b]) => {
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
    return sign * (isText ? a.localeCompare(b) : a - b);
  });
  body.append(...keyed.map(([, row]) => row));
}

function filterTable() {
  const words = document.getElementById('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const dataset = document.getElementById('only-dataset')?.value ?? '';
  let shown = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word)) || (dataset !== '' && row.dataset.dataset !== dataset);
    shown += !row.hidden;
  }
  document.getElementById('n-rows').textContent = `${shown} of ${body.rows.length} rows`;
}

function startTable() {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    button.addEventListener('click', () => sortTable(head));
    head.replaceChildren(button);
    head.setAttribute('aria-sort', 'none');
  }
  document.getElementById('filter').addEventListener('input', filterTable);
  document.getElementById('only-dataset')?.addEventListener('change', filterTable);
  filterTable();
}
