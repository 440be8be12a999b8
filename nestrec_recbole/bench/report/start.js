// What is left: commands that can be copied, and runs that open when they are linked to.
function startRuns() {
  for (const button of document.querySelectorAll('.copy')) {
    button.addEventListener('click', async () => {
      const code = button.parentElement.querySelector('code');
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = 'Copied';
      } catch {  // not allowed for files in some browsers
        getSelection().selectAllChildren(code);
        button.textContent = 'Selected';
      }
    });
  }
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener('hashchange', open);
  open();
}

if (page.datasets.length < 2) for (const label of document.querySelectorAll('.for-dataset')) label.hidden = true;
startTable();
startCharts();
startExamples();
startSettings();
startRuns();
document.documentElement.dataset.ready = 'yes';
