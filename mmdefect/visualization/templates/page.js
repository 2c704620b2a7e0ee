(function(){
const root=document.documentElement,wanted=new URLSearchParams(location.search).get('theme');
if(wanted)root.dataset.theme=wanted;
const dark=()=>root.dataset.theme?root.dataset.theme==='dark':matchMedia('(prefers-color-scheme:dark)').matches;
const toggle=document.getElementById('theme');
const label=()=>{toggle.textContent=dark()?'Light':'Dark'};label();
toggle.onclick=()=>{root.dataset.theme=dark()?'light':'dark';label()};
const value=cell=>{const v=cell.dataset.v!==undefined?cell.dataset.v:cell.textContent.trim();const n=parseFloat(v);
return v===''||v==='nan'?null:(isNaN(n)||!/^[-+\d.]/.test(v)?v.toLowerCase():n)};
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
