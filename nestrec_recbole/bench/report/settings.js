// Settings of two runs, and only those that differ.
function settingsOf(left, right) {
  const keys = [...new Set([...Object.keys(left.settings), ...Object.keys(right.settings)])].sort();
  return { keys, differing: keys.filter(key => left.settings[key] !== right.settings[key]) };
}

function drawDifference() {
  const [left, right] = ['settings-left', 'settings-right'].map(id => page.runs[element(id).selectedIndex]);
  const { keys, differing } = settingsOf(left, right);
  const note = document.createElement('p');
  note.className = 'quiet';
  note.textContent = `${differing.length} of ${keys.length} settings differ.`;
  if (!differing.length) {
    element('difference').replaceChildren(note);
    return;
  }
  const shown = document.createElement('table');
  const head = shown.createTHead().insertRow(), rows = shown.createTBody();
  for (const text of ['Setting', left.label, right.label]) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = text;
    head.append(cell);
  }
  for (const key of differing) {
    const row = rows.insertRow(), name = document.createElement('th');
    name.scope = 'row';
    name.textContent = key;
    row.append(name);
    for (const run of [left, right]) row.insertCell().textContent = run.settings[key] ?? '–';
  }
  element('difference').replaceChildren(note, shown);
}

function startSettings() {
  const labels = page.runs.map(run => run.label);
  fillSelect(element('settings-left'), labels, 0);
  const other = page.runs.findIndex(run => settingsOf(page.runs[0], run).differing.some(key => key !== 'seed'));
  fillSelect(element('settings-right'), labels, Math.max(other, 0));
  for (const id of ['settings-left', 'settings-right']) element(id).addEventListener('change', drawDifference);
  drawDifference();
}
