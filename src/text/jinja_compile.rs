//! Compiling a template so that everything it does is paid for.
//!
//! minijinja counts instructions at most, and one instruction can double a text, compare two nested
//! lists or repeat a list a million times. It has no hook for its operators. So the template's
//! syntax tree is rebuilt before it becomes instructions: what makes or looks through values of any
//! size goes through a filter of [`jinja_ops`](super::jinja_ops), which pays from the budget of
//! [`jinja_work`](super::jinja_work) first. Loops, macros and blocks pay for their bodies each time.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use minijinja::machinery::ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt, UnaryOpKind};
use minijinja::machinery::{CodeGenerator, Instructions, Span, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

use super::jinja_ops as ops;
use crate::error;
use crate::file::guard::guard;

/// Stack of the thread that compiles. Parsing and rebuilding take a frame per level of nesting,
/// which `jinja_source` bounds.
const STACK: usize = 64 << 20;

/// Steps of a node of the syntax tree.
const OPERATION: u64 = 4;

/// A template as instructions.
pub(super) struct Compiled<'a> {
    main: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Compiled<'a> {
    /// Compiles what `jinja_source` made of a template.
    ///
    /// # Errors
    /// It does not parse.
    pub(super) fn new(
        name: &'a str,
        source: &'a str,
        syntax: &SyntaxConfig,
    ) -> error::Result<Result<Self, Error>> {
        let compile = || {
            let tree = parse(source, name, syntax.clone())?;
            let mut code = CodeGenerator::new(name, source);
            code.compile_stmt(&Weaver::default().stmt(&tree));
            let (main, blocks) = code.finish();
            Ok(Self { main, blocks })
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("template".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, || guard(name, || Ok(compile())))
                .map_err(error::Error::internal)?
                .join()
                .unwrap_or_else(|_| Err(error::Error::internal("the template thread ended early")))
        })
    }

    /// Renders it.
    pub(super) fn render(&self, environment: &Environment<'a>, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        eval(
            environment,
            &self.main,
            context,
            &self.blocks,
            &mut out,
            AutoEscape::None,
        )?;
        drop(out);
        Ok(text)
    }
}

/// A text that lives as long as the process.
///
/// Instructions borrow from the template's text. A process opens few templates, and each text is
/// kept once.
pub(super) fn kept(text: &str) -> &'static str {
    static KEPT: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    // A thread that panicked while it held the set has left it whole.
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    match kept.get(text) {
        Some(text) => text,
        None => {
            let text: &'static str = Box::leak(text.into());
            kept.insert(text);
            text
        }
    }
}

/// Rebuilds a syntax tree.
#[derive(Default)]
struct Weaver {
    /// Nodes so far.
    nodes: u64,
}

fn constant<'a>(value: impl Into<Value>, span: Span) -> Expr<'a> {
    let value = value.into();
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

fn apply<'a>(name: &'a str, expr: Expr<'a>, args: Vec<Expr<'a>>) -> Expr<'a> {
    let span = expr.span();
    let filter = ast::Filter {
        name,
        expr: Some(expr),
        args: args.into_iter().map(CallArg::Pos).collect(),
    };
    Expr::Filter(Spanned::new(filter, span))
}

/// `expr` behind a filter, unless it is a constant, which is as small as the template's text.
fn paid<'a>(name: &'a str, expr: Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Const(_) => expr,
        _ => apply(name, expr, Vec::new()),
    }
}

impl Weaver {
    fn body<'a>(&mut self, body: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
        body.iter().map(|stmt| self.stmt(stmt)).collect()
    }

    /// As [`Self::body`] for one that may run more than once: it begins with its price. The price
    /// counts the nodes since there were `before`.
    fn repeated<'a>(&mut self, before: u64, body: &[Stmt<'a>], span: Span) -> Vec<Stmt<'a>> {
        let mut body = self.body(body);
        let price = ast::IfCond {
            expr: apply(ops::STEPS, constant(self.price(before), span), Vec::new()),
            true_body: Vec::new(),
            false_body: Vec::new(),
        };
        body.insert(0, Stmt::IfCond(Spanned::new(price, span)));
        body
    }

    fn price(&self, before: u64) -> u64 {
        (self.nodes - before + 1) * OPERATION
    }

    fn stmt<'a>(&mut self, stmt: &Stmt<'a>) -> Stmt<'a> {
        self.nodes += 1;
        match stmt {
            Stmt::Template(s) => {
                let children = self.body(&s.children);
                Stmt::Template(Spanned::new(ast::Template { children }, s.span()))
            }
            Stmt::EmitExpr(s) => {
                let expr = self.expr(&s.expr);
                Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, s.span()))
            }
            // The formatter pays for what is printed.
            Stmt::EmitRaw(s) => {
                let expr = constant(s.raw, s.span());
                Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, s.span()))
            }
            Stmt::ForLoop(s) => {
                let iter = paid(ops::LOOK, self.expr(&s.iter));
                let before = self.nodes;
                let filter_expr = s.filter_expr.as_ref().map(|filter| {
                    let right = self.expr(filter);
                    let span = right.span();
                    let price = constant(self.price(before), span);
                    let left = apply(ops::STEPS, price, vec![constant(true, span)]);
                    let op = BinOpKind::ScAnd;
                    Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, span))
                });
                let for_loop = ast::ForLoop {
                    target: target(&s.target),
                    iter,
                    filter_expr,
                    recursive: s.recursive,
                    body: self.repeated(self.nodes, &s.body, s.span()),
                    else_body: self.body(&s.else_body),
                };
                Stmt::ForLoop(Spanned::new(for_loop, s.span()))
            }
            Stmt::IfCond(s) => {
                let cond = ast::IfCond {
                    expr: self.expr(&s.expr),
                    true_body: self.body(&s.true_body),
                    false_body: self.body(&s.false_body),
                };
                Stmt::IfCond(Spanned::new(cond, s.span()))
            }
            Stmt::WithBlock(s) => {
                let assign = |(to, expr): &(Expr<'a>, Expr<'a>)| (target(to), self.expr(expr));
                let assignments = s.assignments.iter().map(assign).collect();
                let body = self.body(&s.body);
                Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments, body }, s.span()))
            }
            Stmt::Set(s) => {
                let expr = match sets_attributes(&s.target) {
                    true => self.paid(ops::STORE, &s.expr),
                    false => self.expr(&s.expr),
                };
                let target = target(&s.target);
                Stmt::Set(Spanned::new(ast::Set { target, expr }, s.span()))
            }
            Stmt::SetBlock(s) => {
                let block = ast::SetBlock {
                    target: target(&s.target),
                    filter: s.filter.as_ref().map(|filter| self.expr(filter)),
                    body: self.body(&s.body),
                };
                Stmt::SetBlock(Spanned::new(block, s.span()))
            }
            Stmt::AutoEscape(s) => {
                let block = ast::AutoEscape {
                    enabled: self.expr(&s.enabled),
                    body: self.body(&s.body),
                };
                Stmt::AutoEscape(Spanned::new(block, s.span()))
            }
            Stmt::FilterBlock(s) => {
                let block = ast::FilterBlock {
                    filter: self.expr(&s.filter),
                    body: self.body(&s.body),
                };
                Stmt::FilterBlock(Spanned::new(block, s.span()))
            }
            Stmt::Block(s) => {
                let block = ast::Block {
                    name: s.name,
                    required: s.required,
                    body: self.repeated(self.nodes, &s.body, s.span()),
                };
                Stmt::Block(Spanned::new(block, s.span()))
            }
            Stmt::Import(s) => {
                let import = ast::Import {
                    expr: self.expr(&s.expr),
                    name: target(&s.name),
                };
                Stmt::Import(Spanned::new(import, s.span()))
            }
            Stmt::FromImport(s) => {
                let name =
                    |(name, alias): &(Expr<'a>, Option<Expr<'a>>)| (target(name), alias.as_ref().map(target));
                let import = ast::FromImport {
                    expr: self.expr(&s.expr),
                    names: s.names.iter().map(name).collect(),
                };
                Stmt::FromImport(Spanned::new(import, s.span()))
            }
            Stmt::Extends(s) => {
                let name = self.expr(&s.name);
                Stmt::Extends(Spanned::new(ast::Extends { name }, s.span()))
            }
            Stmt::Include(s) => {
                let include = ast::Include {
                    name: self.expr(&s.name),
                    ignore_missing: s.ignore_missing,
                };
                Stmt::Include(Spanned::new(include, s.span()))
            }
            Stmt::Macro(s) => Stmt::Macro(self.definition(s)),
            Stmt::CallBlock(s) => {
                let block = ast::CallBlock {
                    call: self.call(&s.call),
                    macro_decl: self.definition(&s.macro_decl),
                };
                Stmt::CallBlock(Spanned::new(block, s.span()))
            }
            Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
            Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
            Stmt::Do(s) => {
                let call = self.call(&s.call);
                Stmt::Do(Spanned::new(ast::Do { call }, s.span()))
            }
        }
    }

    fn definition<'a>(&mut self, given: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
        // Defaults are worked out at each call too.
        let before = self.nodes;
        let defaults = given.defaults.iter().map(|expr| self.expr(expr)).collect();
        let body = self.repeated(before, &given.body, given.span());
        let definition = ast::Macro {
            name: given.name,
            args: given.args.iter().map(target).collect(),
            defaults,
            body,
        };
        Spanned::new(definition, given.span())
    }

    fn option<'a>(&mut self, expr: &Option<Expr<'a>>) -> Option<Expr<'a>> {
        expr.as_ref().map(|expr| self.expr(expr))
    }

    fn list<'a>(&mut self, items: &[Expr<'a>]) -> Vec<Expr<'a>> {
        items.iter().map(|item| self.expr(item)).collect()
    }

    fn paid<'a>(&mut self, name: &'a str, expr: &Expr<'a>) -> Expr<'a> {
        paid(name, self.expr(expr))
    }

    /// Arguments; `each` is a filter for every one of them.
    fn args<'a>(&mut self, args: &[CallArg<'a>], each: Option<&'a str>) -> Vec<CallArg<'a>> {
        let mut one = |expr: &Expr<'a>| match each {
            Some(name) => self.paid(name, expr),
            None => self.expr(expr),
        };
        let arg = |arg: &CallArg<'a>| match arg {
            CallArg::Pos(expr) => CallArg::Pos(one(expr)),
            CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, one(expr)),
            CallArg::PosSplat(expr) => CallArg::PosSplat(paid(ops::LOOK, one(expr))),
            CallArg::KwargSplat(expr) => CallArg::KwargSplat(paid(ops::LOOK, one(expr))),
        };
        args.iter().map(arg).collect()
    }

    fn call<'a>(&mut self, call: &Spanned<ast::Call<'a>>) -> Spanned<ast::Call<'a>> {
        self.nodes += 1;
        // A name and a method stay what they are: the compiler tells calls apart by them.
        let (expr, each) = match &call.expr {
            Expr::Var(var) => {
                let each = (var.id == "loop").then_some(ops::LOOK);
                (target(&call.expr), each)
            }
            Expr::GetAttr(attr) => {
                let expr = self.expr(&attr.expr);
                let name = attr.name;
                // `loop.changed` keeps and compares what it is given.
                let each = (name == "changed").then_some(ops::KEEP);
                let attr = Spanned::new(ast::GetAttr { expr, name }, attr.span());
                (Expr::GetAttr(attr), each)
            }
            other => (self.expr(other), None),
        };
        let args = self.args(&call.args, each);
        Spanned::new(ast::Call { expr, args }, call.span())
    }

    fn expr<'a>(&mut self, expr: &Expr<'a>) -> Expr<'a> {
        self.nodes += 1;
        let span = expr.span();
        match expr {
            Expr::Var(_) => target(expr),
            Expr::Const(e) => constant(e.value.clone(), span),
            Expr::Slice(e) => {
                let slice = ast::Slice {
                    expr: self.paid(ops::LOOK, &e.expr),
                    start: self.option(&e.start),
                    stop: self.option(&e.stop),
                    step: self.option(&e.step),
                };
                apply(ops::SOLID, Expr::Slice(Spanned::new(slice, span)), Vec::new())
            }
            Expr::UnaryOp(e) => {
                // The kind is not `Clone`.
                let negated = matches!(e.op, UnaryOpKind::Neg);
                let op = if negated {
                    UnaryOpKind::Neg
                } else {
                    UnaryOpKind::Not
                };
                let expr = self.expr(&e.expr);
                Expr::UnaryOp(Spanned::new(ast::UnaryOp { op, expr }, span))
            }
            Expr::BinOp(e) => self.binary(e),
            Expr::Compare(e) => {
                let op = |op: &ast::CompareOp<'a>| ast::CompareOp {
                    op: op.op,
                    expr: self.paid(ops::READ, &op.expr),
                };
                let rest = e.ops.iter().map(op).collect();
                let compare = ast::Compare {
                    expr: self.paid(ops::READ, &e.expr),
                    ops: rest,
                };
                Expr::Compare(Spanned::new(compare, span))
            }
            Expr::IfExpr(e) => {
                let choice = ast::IfExpr {
                    test_expr: self.expr(&e.test_expr),
                    true_expr: self.expr(&e.true_expr),
                    false_expr: self.option(&e.false_expr),
                };
                Expr::IfExpr(Spanned::new(choice, span))
            }
            Expr::Filter(e) => {
                let mut args = vec![CallArg::Pos(constant(e.name, span))];
                args.extend(self.args(&e.args, None));
                let filter = ast::Filter {
                    name: ops::FILTER,
                    expr: self.option(&e.expr),
                    args,
                };
                Expr::Filter(Spanned::new(filter, span))
            }
            Expr::Test(e) => {
                let plain = ops::PLAIN_TESTS.contains(&e.name) && e.args.is_empty();
                let test = ast::Test {
                    name: e.name,
                    expr: match plain {
                        true => self.expr(&e.expr),
                        false => self.paid(ops::READ, &e.expr),
                    },
                    args: self.args(&e.args, Some(ops::READ)),
                };
                Expr::Test(Spanned::new(test, span))
            }
            Expr::GetAttr(e) => {
                let expr = self.expr(&e.expr);
                let name = e.name;
                Expr::GetAttr(Spanned::new(ast::GetAttr { expr, name }, span))
            }
            Expr::GetItem(e) => {
                // A name finds an item at once; a number counts characters, any value is compared.
                let by_name = matches!(&e.subscript_expr, Expr::Const(c) if c.value.as_str().is_some());
                let item = ast::GetItem {
                    expr: match by_name {
                        true => self.expr(&e.expr),
                        false => self.paid(ops::CHARACTERS, &e.expr),
                    },
                    subscript_expr: self.paid(ops::READ, &e.subscript_expr),
                };
                Expr::GetItem(Spanned::new(item, span))
            }
            Expr::Call(e) => Expr::Call(self.call(e)),
            Expr::List(e) => {
                let items = self.list(&e.items);
                nest(
                    e.items.iter(),
                    Expr::List(Spanned::new(ast::List { items }, span)),
                )
            }
            Expr::Tuple(e) => {
                let items = self.list(&e.items);
                nest(
                    e.items.iter(),
                    Expr::Tuple(Spanned::new(ast::Tuple { items }, span)),
                )
            }
            Expr::Map(e) => {
                let map = ast::Map {
                    keys: e.keys.iter().map(|key| self.paid(ops::READ, key)).collect(),
                    values: self.list(&e.values),
                };
                nest(e.keys.iter().chain(&e.values), Expr::Map(Spanned::new(map, span)))
            }
        }
    }

    fn binary<'a>(&mut self, e: &Spanned<ast::BinOp<'a>>) -> Expr<'a> {
        use BinOpKind as Op;
        let own = match e.op {
            Op::Add => Some(ops::ADD),
            Op::Mul => Some(ops::MUL),
            Op::Concat => Some(ops::CONCAT),
            _ => None,
        };
        if let Some(name) = own {
            let filter = ast::Filter {
                name,
                expr: Some(self.expr(&e.left)),
                args: vec![CallArg::Pos(self.expr(&e.right))],
            };
            return Expr::Filter(Spanned::new(filter, e.span()));
        }
        let compares = matches!(
            e.op,
            Op::Eq | Op::Ne | Op::Lt | Op::Lte | Op::Gt | Op::Gte | Op::In
        );
        let [left, right] = [&e.left, &e.right].map(|side| match compares {
            true => self.paid(ops::READ, side),
            false => self.expr(side),
        });
        let op = e.op;
        Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, e.span()))
    }
}

/// A list or map behind the check of its nesting, unless only constants are in it.
fn nest<'a, 'e>(mut items: impl Iterator<Item = &'e Expr<'a>>, whole: Expr<'a>) -> Expr<'a>
where
    'a: 'e,
{
    match items.all(|item| matches!(item, Expr::Const(_))) {
        true => whole,
        false => apply(ops::NEST, whole, Vec::new()),
    }
}

/// A copy of what is assigned to, or of a variable.
fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    let span = expr.span();
    match expr {
        Expr::Var(e) => Expr::Var(Spanned::new(ast::Var { id: e.id }, span)),
        Expr::GetAttr(e) => {
            let (expr, name) = (target(&e.expr), e.name);
            Expr::GetAttr(Spanned::new(ast::GetAttr { expr, name }, span))
        }
        Expr::List(e) => {
            let items = e.items.iter().map(target).collect();
            Expr::List(Spanned::new(ast::List { items }, span))
        }
        Expr::Tuple(e) => {
            let items = e.items.iter().map(target).collect();
            Expr::Tuple(Spanned::new(ast::Tuple { items }, span))
        }
        // The parser gives no others.
        _ => constant((), span),
    }
}

/// Whether an assignment changes an object.
fn sets_attributes(to: &Expr<'_>) -> bool {
    match to {
        Expr::Var(_) => false,
        Expr::List(e) => e.items.iter().any(sets_attributes),
        Expr::Tuple(e) => e.items.iter().any(sets_attributes),
        _ => true,
    }
}
