"""Style and script of the report page. Nothing is fetched: the page opens from disk without a network."""

STYLE = '''
:root{--paper:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5b6675;--line:#c9d0da;--rule:#e4e8ee;--accent:#2f6fd0;--warn:#8a5200;
--warnbg:#fff4df;--hit:#46af78;--miss:#eb3c32;--false:#3c82f5;--mixed:#f5be28;--heat:47,111,208}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){--paper:#12161c;--card:#1a2028;--ink:#e6eaf0;--soft:#9aa6b5;
--line:#3d4754;--rule:#2a323d;--accent:#7db2ff;--warn:#ffc870;--warnbg:#33290f;--heat:90,150,240}}
:root[data-theme=dark]{--paper:#12161c;--card:#1a2028;--ink:#e6eaf0;--soft:#9aa6b5;--line:#3d4754;--rule:#2a323d;
--accent:#7db2ff;--warn:#ffc870;--warnbg:#33290f;--heat:90,150,240}
*{box-sizing:border-box}html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:28px}h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 10px}h3{font-size:1rem;margin:20px 0 8px}
.lead{color:var(--soft);margin:0 0 14px}.top{display:flex;gap:12px;justify-content:space-between;align-items:flex-start}
button{font:inherit;font-size:.82rem;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:999px;
padding:3px 12px;cursor:pointer;white-space:nowrap}button[aria-pressed=true]{background:var(--accent);border-color:var(--accent);color:var(--card)}
button:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
nav{position:sticky;top:0;z-index:5;background:var(--paper);border-bottom:1px solid var(--rule);margin-bottom:18px}
nav div{max-width:1180px;margin:0 auto;padding:8px 20px;display:flex;gap:18px;overflow-x:auto;scrollbar-width:none}
nav a{color:var(--soft);text-decoration:none;white-space:nowrap;font-size:.88rem}nav a:hover{color:var(--accent)}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:18px 20px;margin:0 0 18px;scroll-margin-top:52px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0 0 18px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:12px 16px}
.tile b{display:block;font-size:1.5rem;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.2}
.tile span{color:var(--soft);font-size:.82rem;display:block;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card)}
thead th{color:var(--soft);font-weight:600;border-bottom:1px solid var(--line);vertical-align:bottom}
th.sort{cursor:pointer;user-select:none}th.sort:hover{color:var(--accent)}th[aria-sort=ascending]:after{content:" \\25B2";font-size:.7em}
th[aria-sort=descending]:after{content:" \\25BC";font-size:.7em}td small{color:var(--soft);font-size:.78rem}
tr.best td{font-weight:650}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:14px 22px}
figure{margin:0}figure svg{width:100%;height:auto;display:block;max-width:460px}svg text{font-family:inherit}
.matrix{width:auto}.matrix td{text-align:center;border:1px solid var(--card);min-width:84px;line-height:1.25}
.matrix td small{display:block;color:inherit;opacity:.8}.matrix th{color:var(--soft);font-weight:600}
.warn{color:var(--warn);background:var(--warnbg);border-radius:8px;padding:8px 12px;margin:0 0 10px;font-size:.88rem}
.tools{display:flex;gap:6px;flex-wrap:wrap;align-items:center;margin:0 0 12px;font-size:.84rem;color:var(--soft)}
.tools span{margin-right:2px}.tools .gap{width:14px}
.card{border-top:1px solid var(--rule);padding:10px 0 12px}.card p{margin:0 0 6px;font-size:.86rem;display:flex;gap:4px 14px;flex-wrap:wrap;
align-items:baseline}.card p b{overflow-wrap:anywhere;font-weight:600}.card i{font-style:normal;color:var(--soft);font-variant-numeric:tabular-nums}
.tag{font-size:.74rem;border:1px solid var(--line);border-radius:999px;padding:0 8px;color:var(--soft)}
.panels{display:grid;grid-template-columns:repeat(5,minmax(0,208px));gap:8px}
.panels figcaption{font-size:.74rem;color:var(--soft)}.panels img{width:100%;aspect-ratio:1;object-fit:contain;border-radius:6px;
display:block;image-rendering:auto;background:var(--paper)}
.key{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin:0 4px 0 10px;vertical-align:-.02em}
details>summary{cursor:pointer;font-weight:600}details.run{border-top:1px solid var(--rule);padding:10px 0}
details.run[open]{padding-bottom:18px}details>.gallery,details>.scroll{margin-top:10px}summary small{font-weight:400;color:var(--soft)}
pre{font-size:.76rem;line-height:1.4;overflow:auto;max-height:420px;background:var(--paper);border-radius:8px;padding:10px 12px;margin:8px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;font-size:.86rem;margin:6px 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.muted{color:var(--soft);font-size:.88rem}footer{color:var(--soft);font-size:.8rem;padding:4px 0 40px}
@media (max-width:640px){main,header{padding:0 12px}header{padding-top:18px}nav div{padding:8px 12px}h1{font-size:1.3rem}
section{padding:14px 12px;border-radius:10px}.grid{grid-template-columns:1fr}.panels{grid-template-columns:repeat(6,1fr)}
.panels figure{grid-column:span 2}.panels figure:nth-child(n+4){grid-column:span 3}.tile{padding:10px 12px}.tile b{font-size:1.25rem}
.tiles{grid-template-columns:1fr 1fr}th,td{padding:5px 7px}td:first-child,th:first-child{max-width:40vw;overflow:hidden;text-overflow:ellipsis}
.matrix td{min-width:70px}dl{grid-template-columns:1fr}dd{margin-bottom:4px}}
@media print{nav,button,.tools{display:none}section{break-inside:avoid;border:0}}
'''

SCRIPT = '''
(function(){
const root=document.documentElement,wanted=new URLSearchParams(location.search).get('theme');
if(wanted)root.dataset.theme=wanted;
const dark=()=>root.dataset.theme?root.dataset.theme==='dark':matchMedia('(prefers-color-scheme:dark)').matches;
const toggle=document.getElementById('theme');
const label=()=>{toggle.textContent=dark()?'Light':'Dark'};label();
toggle.onclick=()=>{root.dataset.theme=dark()?'light':'dark';label()};
const value=cell=>{const v=cell.dataset.v!==undefined?cell.dataset.v:cell.textContent.trim();const n=parseFloat(v);
return v===''||v==='nan'?null:(isNaN(n)||!/^[-+\\d.]/.test(v)?v.toLowerCase():n)};
const order=(a,b,down)=>{if(a===null||b===null)return (a===null)-(b===null);const c=a<b?-1:a>b?1:0;return down?-c:c};
document.querySelectorAll('table.sortable').forEach(table=>{
 table.querySelectorAll('thead th').forEach((th,k)=>{th.classList.add('sort');th.tabIndex=0;
  const run=()=>{const down=th.getAttribute('aria-sort')?th.getAttribute('aria-sort')==='ascending':k>0;
   table.querySelectorAll('th').forEach(o=>o.removeAttribute('aria-sort'));th.setAttribute('aria-sort',down?'descending':'ascending');
   const body=table.tBodies[0];[...body.rows].sort((r,s)=>order(value(r.cells[k]),value(s.cells[k]),down)).forEach(r=>body.append(r))};
  th.onclick=run;th.onkeydown=e=>{if(e.key==='Enter'||e.key===' '){e.preventDefault();run()}}})});
document.querySelectorAll('.gallery').forEach(gallery=>{
 const list=gallery.querySelector('.cards'),cards=[...list.children];
 const press=b=>{b.parentNode.querySelectorAll('button[data-'+(b.dataset.kind!==undefined?'kind':'key')+']').forEach(o=>o.setAttribute('aria-pressed',o===b))};
 gallery.querySelectorAll('button[data-kind]').forEach(b=>b.onclick=()=>{press(b);
  cards.forEach(c=>c.hidden=b.dataset.kind!==''&&!c.dataset.kinds.split('|').includes(b.dataset.kind))});
 gallery.querySelectorAll('button[data-key]').forEach(b=>b.onclick=()=>{press(b);
  const k=b.dataset.key,down=k!=='name',v=c=>{const x=c.dataset[k];return k==='name'?x:(x==='nan'?null:parseFloat(x))};
  cards.sort((c,d)=>order(v(c),v(d),down)).forEach(c=>list.append(c))})});
})();
'''
