// Recommendations to one user from two models, side by side.
function itemOf(token, about) {
  const item = document.createElement('div'), title = document.createElement('span');
  item.className = 'item';
  if (about.pictures[token]) {
    const picture = new Image();
    picture.src = about.pictures[token];
    picture.alt = '';
    item.append(picture);
  } else if (Object.keys(about.pictures).length) {
    item.append(document.createElement('i'));  // keeps the titles in line
  }
  title.textContent = about.titles[token] ?? token;
  title.title = about.titles[token] ? `${about.titles[token]} (${token})` : token;
  item.append(title);
  return item;
}

function titled(text, ...children) {
  const part = document.createElement('div'), head = document.createElement('h3');
  head.textContent = text;
  part.append(head, ...children);
  return part;
}

function listOf(name, user, about) {
  const list = document.createElement('ol');
  for (const token of user.lists[name]) {
    const line = document.createElement('li');
    line.append(itemOf(token, about));
    if (token === user.target) {
      const mark = document.createElement('span');
      line.className = 'taken';
      mark.className = 'mark';
      mark.textContent = '✓ taken next';
      line.append(mark);
    }
    list.append(line);
  }
  const rank = document.createElement('p');
  rank.className = 'quiet';
  rank.textContent = `The target is at rank ${user.ranks[name].toLocaleString('en')}.`;
  return titled(name, rank, list);
}

function drawExample() {
  const about = page.datasets[element('example-dataset').selectedIndex].examples;
  const user = about.users[element('example-user').selectedIndex];
  if (!user) {
    element('example').textContent = 'No run of this dataset has lists of recommendations.';
    return;
  }
  const names = Object.keys(user.lists);
  const history = document.createElement('ol'), lists = document.createElement('div');
  history.append(...user.history.map(token => {
    const line = document.createElement('li');
    line.append(itemOf(token, about));
    return line;
  }));
  const past = titled(`The last of user ${user.user}'s history, oldest first`, history);
  past.className = 'history';
  history.tabIndex = 0;
  lists.className = 'lists';
  lists.append(...['example-left', 'example-right'].map(id => listOf(names[element(id).selectedIndex], user, about)));
  const why = document.createElement('p');
  why.className = 'quiet';
  why.textContent = `This user was ${user.why}.`;
  element('example').replaceChildren(past, titled('Taken next', itemOf(user.target, about)), lists, why);
}

function chooseExamples() {
  const about = page.datasets[element('example-dataset').selectedIndex].examples;
  const names = about.users.length ? Object.keys(about.users[0].lists) : [];
  fillSelect(element('example-left'), names, 0);
  fillSelect(element('example-right'), names, 1);
  fillSelect(element('example-user'), about.users.map(one => one.user));
  drawExample();
}

function startExamples() {
  fillSelect(element('example-dataset'), page.datasets.map(dataset => dataset.label));
  element('example-dataset').addEventListener('change', chooseExamples);
  for (const id of ['example-left', 'example-right', 'example-user']) element(id).addEventListener('change', drawExample);
  chooseExamples();
}
