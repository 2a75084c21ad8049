"""Updates from the template that lose nothing, and what differs from it.

cli        commands, options, exit codes
update     clean tree → two renders → merge → written → report
renders    what the template makes of the answers, before and after
look       what the project has, and what stands in the way
merge      what is to be at each path, as a function of three trees
moves      where the template's own files went, and which edit goes where
apply      all of it is written, or nothing
journal    what is written, noted down before; one update at a time
undo       back to before
plain      updates that Copier itself makes: with a migration, or by hand
review     what a plain `copier update` does not report
drift      which of the template's files differ here, and which differ there
upstream   the template's own repository, as far as it is on this machine
"""
