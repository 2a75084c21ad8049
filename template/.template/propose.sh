#!/bin/sh
# Proposes an update from the template, as a draft, on a branch of its own, in two steps: `sh propose.sh
# update <report>`, which needs no token, then `sh propose.sh github <report>`, or `gitlab <report>`. A
# version is proposed once; what people do on its branch is never overwritten.
set -eu

report=$2
if [ "$1" = update ]; then
  code=0
  python .template update > "$report" || code=$?
  cat "$report"
  if [ "$code" -ge 2 ]; then exit "$code"; fi # refused or failed; conflicts are proposed as they are
  exit 0
fi
if [ -z "$(git status --porcelain)" ]; then exit 0; fi

version=$(sed -n 's/^_commit: //p' .copier-answers.yml)
branch=template-update/$version
title="Update from the template to $version"
if git ls-remote --exit-code origin "refs/heads/$branch" > /dev/null; then
  echo "The branch $branch is there already: $version has been proposed."
  exit 0
fi

git add --all # first: git leaves a branch with conflicts only when they are in the index
git switch --quiet --force-create "$branch"
git -c user.name="Template update" -c user.email="template-update@localhost" \
  commit --quiet --no-verify --message "$title"
case $1 in
  github)
    git push --quiet origin "$branch"
    gh pr create --draft --head "$branch" --title "$title" --body-file "$report"
    ;;
  gitlab)
    git push --quiet origin "$branch" --push-option=merge_request.create \
      --push-option=merge_request.draft --push-option="merge_request.title=$title"
    ;;
esac
