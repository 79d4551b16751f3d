"""What every network of one version of timm gives, as the census measured it: facts without torch and without timm."""

from composer.catalogue.answers import answer as answer
from composer.catalogue.answers import known_facts as known_facts
from composer.catalogue.entries import CATALOGUE as CATALOGUE
from composer.catalogue.entries import Entry as Entry
from composer.catalogue.entries import Level as Level
from composer.catalogue.entries import Weights as Weights
from composer.catalogue.entries import entry as entry
from composer.catalogue.entries import from_plain as from_plain
from composer.catalogue.entries import names as names
from composer.catalogue.entries import plain as plain
from composer.catalogue.entries import stamp as stamp
from composer.catalogue.entries import written as written
