"""Updates from the template that lose nothing, and what differs from it.

cli        commands, options, exit codes
update     clean tree → Copier → review → what was hidden is saved → report
review     what a plain `copier update` does not tell, as a function of four trees
undo       back to before
drift      which of the template's files differ here, and which differ there
upstream   the template's own repository, as far as it is on this machine
"""
